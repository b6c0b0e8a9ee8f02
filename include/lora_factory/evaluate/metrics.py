"""The scores (article, 4.1), as pure functions of embeddings, timings and constants.

Each raw measurement is anchored, so that 1 means "as good as the real images of this style"
(or as fast as the base) and 0 means "no better than the base" (or collapsed);
``calibration`` says what the constants then make of it. All embeddings are rows of unit
length in the scorer's joint space.

``weights`` are how often each row counts: B replicates × n rows (``statistics.resample``);
None is every row once, and a B of 1. Measurements come as one value a replicate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.evaluate.statistics import matched_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.contracts.evaluation import Constants, Scale
    from lora_factory.evaluate.statistics import Floats, Rows
    from lora_factory.models.roles import Vectors

EPSILON = 1e-9
LOGDET_FLOOR = 1e-3
"""Added to the eigenvalues in the log-determinant, which would be −∞ for one twin pair."""
MAX_SUBJECTS = 48
"""Subjects that diversity looks at: its cost grows with their cube, in every replicate."""
CHUNK = 250
"""Replicates whose Gram matrices are held at once."""


class Diversity(NamedTuple):
    """Spread of one set of images."""

    vendi: float
    log_det: float


class Readable(NamedTuple):
    """How well the scorer reads a style: see :func:`readable`."""

    p_value: float
    """One-sided, that the real pairs match no better than shuffled ones."""
    error: float
    """Standard error that chance alone gives the alignment score, with this many prompts."""


class Matches(NamedTuple):
    """p-values, one-sided, that pictures match their own subjects no better than others'."""

    base: float
    lora: float


@dataclass(frozen=True)
class Pairs:
    """What paired generations look like to the scorer.

    Args:
        base: n×d, images of the base alone.
        lora: n×d, images with the LoRA: same prompts, seeds and scheduler, row by row.
        anchor: n, which real image (row of ``real``) each prompt's subject is taken from.
        real: m×d, real images of the style; m ≥ 2.
        text: m×d, their subjects (captions without trigger and style words).
        sound: n, False for LoRA images that are blank or repeat a training image; they add
            nothing to diversity. None: all are sound.
    """

    base: Vectors
    lora: Vectors
    anchor: NDArray[np.int64]
    real: Vectors
    text: Vectors
    sound: NDArray[np.bool_] | None = None

    @cached_property
    def first(self) -> Rows:
        """Rows that are the first with their real image, at most ``MAX_SUBJECTS``."""
        return np.sort(np.unique(self.anchor, return_index=True)[1])[:MAX_SUBJECTS]

    @cached_property
    def closeness(self) -> Floats:
        """3×n: cosine of (base, LoRA, real) image to the style; see :func:`style_similarity`."""
        style = style_without(self, self.anchor)
        sides = (self.base, self.lora, self.real[self.anchor])
        return np.stack([(images * style).sum(axis=1) for images in sides]).astype(np.float64)

    @cached_property
    def adherence(self) -> Floats:
        """2×n: :func:`adherence_margins` of (base, LoRA) images."""
        return np.stack([adherence_margins(self, images) for images in (self.base, self.lora)])

    @cached_property
    def margins(self) -> Floats:
        """2×n: :func:`match_margins` of (LoRA, real) images."""
        sides = (self.lora, self.real[self.anchor])
        return np.stack([match_margins(self, images, self.anchor) for images in sides])


@dataclass(frozen=True)
class Drift:
    """Pictures of prompts that have nothing to do with the LoRA: n×d each, row by row.

    ``lora`` and ``base`` share prompt and seed; ``other`` is the base's with another seed.
    """

    base: Vectors
    other: Vectors
    lora: Vectors


def scaled(raw: Floats, scale: Scale) -> Floats:
    """Raw measurements → scores in [0, 1]."""
    found: Floats = np.clip((raw - scale.zero) / (scale.one - scale.zero), 0.0, 1.0)
    return found


def quality_scores(
    pairs: Pairs, constants: Constants, weights: Floats | None = None
) -> dict[str, Floats]:
    """Fidelity, alignment, diversity, typicality and adherence: B scores each."""
    percentile = constants.in_style_percentile
    return {
        "fidelity": scaled(raw_fidelity(pairs, weights), constants.fidelity),
        "alignment": scaled(raw_alignment(pairs, weights), constants.alignment),
        "diversity": scaled(raw_diversity(pairs, percentile, weights), constants.diversity),
        "typicality": scaled(raw_typicality(pairs, weights), constants.typicality),
        "adherence": scaled(raw_adherence(pairs, weights), constants.adherence),
    }


def style_without(pairs: Pairs, subject: Rows) -> Vectors:
    """k subjects → k×d: the mean of all real images but the subject's own (leave one out)."""
    found: Vectors = (pairs.real.sum(axis=0) - pairs.real[subject]) / (len(pairs.real) - 1)
    return found


def style_similarity(pairs: Pairs, weights: Floats | None = None) -> Floats:
    """Mean cosine to the style of (base, LoRA, real) images: 3×B.

    Every image is compared with all real images but the one its prompt was taken from;
    the real one likewise, so that the three are measured alike.
    """
    return np.stack([mean_of(values, weights) for values in pairs.closeness])


def raw_fidelity(pairs: Pairs, weights: Floats | None = None) -> Floats:
    """0: no closer to the style than the base; 1: as close as real images are to each other.

    (LoRA − base) / (real − base) of :func:`style_similarity`. 0 where the base is as close
    as the real ones (nothing to be measured; see the gate).
    """
    base, lora, real = style_similarity(pairs, weights)
    return _ratio(lora - base, real - base)


def raw_typicality(pairs: Pairs, weights: Floats | None = None) -> Floats:
    """0: as seldom closer to the style than a real image as the base; 1: as often as real ones.

    How often a LoRA's image is closer to the style than a real one (the area under the ROC
    curve of :attr:`Pairs.closeness`; ½ where the two can't be told apart), from the base's to ½.
    :func:`raw_fidelity` measures on the way from the base, most of which is easy: a LoRA that
    learnt four images by heart goes nine tenths of it. This measures in the style's own spread.
    """
    base, lora, real = pairs.closeness
    counts = _weights(weights, len(real))
    before, after = (_closer(side, real, counts) for side in (base, lora))
    return _ratio(after - before, 0.5 - before)


def match_margins(pairs: Pairs, images: Vectors, subject: Rows) -> Floats:
    """How much each of k images says of its subject: k values around 0 for shuffled ones.

    (image − style) · (own text − mean of the other texts), the style being the mean of the
    other real images. The plain cosine moves with the style (line icons score low with any
    text) and with the text (some go with any picture); both are taken out.
    """
    others = (pairs.text.sum(axis=0) - pairs.text[subject]) / (len(pairs.text) - 1)
    own = images - style_without(pairs, subject)
    margins: Floats = (own * (pairs.text[subject] - others)).sum(axis=1)
    return margins


def raw_alignment(pairs: Pairs, weights: Floats | None = None) -> Floats:
    """0: images don't show their subjects; 1: as clearly as the real images do.

    Mean :func:`match_margins` of the LoRA's images over that of the real ones. Anchored on
    real images of the same subjects, not on the base: a style can be harder for the scorer
    to read than what the base draws. 0 where the real margin is not positive; the metric
    abstains where the scorer can't read the style (see :func:`readable`).
    """
    lora, real = (mean_of(values, weights) for values in pairs.margins)
    return _ratio(lora, real)


def adherence_margins(pairs: Pairs, images: Vectors) -> Floats:
    """How much each of n images, row by row with the pairs, has to do with its own prompt.

    The sum of three cosines, each less the mean one with what belongs to other subjects: with
    the words of the subject, with the real image of it, and with what the base draws of the
    same prompt and seed. What all images of a kind have in common is taken out first. One
    witness alone is too noisy with tens of images, and each is blind somewhere: the words in
    styles that the scorer can't read, the real image where subjects can be drawn in many ways,
    the base's picture where the base doesn't know the subject.
    """
    subject = np.arange(len(pairs.real)) != pairs.anchor[:, None]
    prompt = pairs.anchor != pairs.anchor[:, None]
    rows = np.arange(len(pairs.anchor))
    found: Floats = (
        _above_others(images, pairs.text, pairs.anchor, subject)
        + _above_others(images, pairs.real, pairs.anchor, subject)
        + _above_others(images, pairs.base, rows, prompt)
    )
    return found


def raw_adherence(pairs: Pairs, weights: Floats | None = None) -> Floats:
    """0: images have no more to do with their own prompt than with others'; 1: as the base's.

    Mean :func:`adherence_margins` of the LoRA's images over that of the base's. A LoRA that
    learnt a handful of images by heart, or wrong words, draws in the style, and varied, and
    loses this.
    """
    base, lora = (mean_of(values, weights) for values in pairs.adherence)
    return _ratio(lora, base)


def readable(pairs: Pairs, prompts: int, rng: np.random.Generator) -> Readable:
    """Can the scorer tell the real images' own texts from shuffled ones?

    ``prompts``: different ones among the pairs; seeds of one prompt add no new subject.
    """
    every = np.arange(len(pairs.real))
    observed, shuffled, p_value = _matched(pairs, pairs.real, every, rng)
    noise = float(shuffled.std()) * np.sqrt(len(every) / prompts)
    return Readable(p_value, float(noise / observed) if observed > EPSILON else float("inf"))


def own_matches(pairs: Pairs, rng: np.random.Generator) -> Matches:
    """Do the generated pictures show their own subjects rather than each other's?

    Anchored on nothing: it needs no real image that the scorer can read. The base's pictures
    say whether the scorer reads these subjects at all.
    """
    sides = (pairs.base, pairs.lora)
    return Matches(*(_matched(pairs, images, pairs.anchor, rng)[2] for images in sides))


def spread(images: Vectors) -> Diversity:
    """Vendi score (Friedman & Dieng 2022, arXiv 2210.02410) and log-determinant.

    Both from the eigenvalues λ of the cosine Gram matrix over n: Vendi = exp(−Σ λ log λ),
    from 1 (all the same) to n (all orthogonal); log-det = mean log(λ + ``LOGDET_FLOOR``),
    the article's determinant of a covariance, which is 0 for fewer images than dimensions.
    """
    if not len(images):
        return Diversity(0.0, float("-inf"))
    wide = images.astype(np.float64)
    eigen = np.clip(np.linalg.eigvalsh(wide @ wide.T / len(wide)), 0.0, None)
    return Diversity(float(_vendi(eigen)), float(np.log(eigen + LOGDET_FLOOR).mean()))


def quality(pairs: Pairs, in_style_percentile: float) -> Floats:
    """n: how far each LoRA image counts as variety, in [0, 1].

    1 for an image as close to the style as the given percentile of the real ones, less in
    proportion to 0 for one as close as the mean base image (or as far below that percentile
    as the real images' median is above it, where that is lower). 0 for unsound ones.
    """
    base, lora, real = pairs.closeness
    own = np.unique(pairs.anchor, return_index=True)[1]
    full, median = np.percentile(real[own], [in_style_percentile, 50])
    width = max(full - base.mean(), median - full, EPSILON)
    found: Floats = np.clip(1.0 - (full - lora) / width, 0.0, 1.0)
    return found if pairs.sound is None else found * pairs.sound


def raw_diversity(
    pairs: Pairs, in_style_percentile: float, weights: Floats | None = None
) -> Floats:
    """0: collapsed to one image, or nothing in the style; 1: as varied as the real images.

    Quality-weighted Vendi score (Nguyen & Dieng 2024, arXiv 2405.02449), less 1, over the
    real images' of the same subjects: mean quality × (Vendi − 1) / (Vendi of real − 1), the
    images entering the Gram matrix by their :func:`quality`. The ratio is cut at 1, since
    more variety than the style has is no merit. So pictures outside the style (noise, broken
    ones), which plain Vendi takes for the greatest variety, count nothing. 0 where there is
    no variety to compare with.
    """
    rows = pairs.first
    counts = _weights(weights, len(pairs.anchor))[:, rows]
    good = counts * quality(pairs, in_style_percentile)[rows]
    lora = _vendis(pairs.lora[rows], good)
    real = _vendis(pairs.real[pairs.anchor[rows]], counts)
    return _ratio(good.sum(axis=1), counts.sum(axis=1)) * np.minimum(_ratio(lora - 1, real - 1), 1)


def diversity_of(pairs: Pairs) -> tuple[Diversity, Diversity]:
    """Plain spread of (LoRA, real) images at equal n and of the same subjects, one image each."""
    rows = pairs.first
    return spread(pairs.lora[rows]), spread(pairs.real[pairs.anchor[rows]])


def raw_efficiency(base_seconds: Floats, lora_seconds: Floats) -> Floats:
    """Fastest base run over fastest LoRA run, along the last axis.

    The fastest of several runs is the one that other load on the machine disturbed least.
    """
    return np.atleast_1d(base_seconds.min(axis=-1) / np.maximum(lora_seconds.min(axis=-1), EPSILON))


def raw_drift(drift: Drift, weights: Floats | None = None) -> Floats:
    """How much of the base's pictures a LoRA leaves where it should leave all.

    (kept − unlike) / (like − unlike): mean cosine of the LoRA's picture with the base's
    (kept), of the base's with another seed (like), and with other prompts' (unlike). 1: as
    like as another seed; 0: no more like than another subject. 0 where seeds of one prompt
    are no more alike than prompts.
    """
    kept = (drift.lora * drift.base).sum(axis=1)
    like = (drift.other * drift.base).sum(axis=1)
    others = (drift.base.sum(axis=0) - drift.base) / max(len(drift.base) - 1, 1)
    unlike = mean_of((others * drift.base).sum(axis=1), weights)
    return _ratio(mean_of(kept, weights) - unlike, mean_of(like, weights) - unlike)


def _weights(weights: Floats | None, count: int) -> Floats:
    return np.ones((1, count)) if weights is None else weights


def mean_of(values: Floats, weights: Floats | None = None) -> Floats:
    """n values → B means."""
    counts = _weights(weights, len(values))
    found: Floats = counts @ values.astype(np.float64) / counts.sum(axis=1)
    return found


def _ratio(above: Floats, below: Floats) -> Floats:
    """0 where there is nothing to divide by."""
    safe = below > EPSILON
    found: Floats = np.where(safe, above / np.where(safe, below, 1.0), 0.0)
    return found


def _closer(one: Floats, other: Floats, counts: Floats) -> Floats:
    """B shares of n×n pairs in which the first is greater, equal ones by half."""
    table = (one[:, None] > other) + 0.5 * (one[:, None] == other)
    found: Floats = ((counts @ table) * counts).sum(axis=1) / counts.sum(axis=1) ** 2
    return found


def _above_others(
    images: Vectors, others: Vectors, own: Rows, foreign: NDArray[np.bool_]
) -> Floats:
    """n cosines with the own row of m others, less the mean with the foreign ones (n×m).

    Both sets are centred; 0 where nothing is foreign.
    """
    cosines = _centred(images) @ _centred(others).T
    count = foreign.sum(axis=1)
    mean = (cosines * foreign).sum(axis=1) / np.maximum(count, 1)
    found: Floats = np.where(count > 0, cosines[np.arange(len(own)), own] - mean, 0.0)
    return found


def _centred(rows: Vectors) -> Floats:
    """Rows less their mean, of unit length again (0 where nothing is left)."""
    wide = rows.astype(np.float64)
    apart = wide - wide.mean(axis=0)
    found: Floats = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), EPSILON)
    return found


def _vendi(eigen: Floats) -> Floats:
    """Eigenvalues (last axis) of a Gram matrix of trace 1 → exp(entropy)."""
    kept = np.where(eigen > 1e-12, eigen, 1.0)
    found: Floats = np.exp(-(kept * np.log(kept)).sum(axis=-1))
    return found


def _vendis(images: Vectors, weights: Floats) -> Floats:
    """Vendi score of k images for each of B×k weights; 1 where all weights are 0."""
    gram = images.astype(np.float64) @ images.T.astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    root = np.sqrt(weights / np.where(total > 0, total, 1.0))
    parts = [
        _vendi(np.linalg.eigvalsh(gram * part[:, :, None] * part[:, None, :]))
        for part in (root[start : start + CHUNK] for start in range(0, len(root), CHUNK))
    ]
    return np.concatenate(parts)


def _matched(
    pairs: Pairs, images: Vectors, subjects: Rows, rng: np.random.Generator
) -> tuple[float, Floats, float]:
    """Mean margin of k images with their subjects, with shuffled ones, and the p-value."""
    # Row j, column i holds image i as subject j.
    table = np.stack([match_margins(pairs, images, np.full_like(subjects, j)) for j in subjects])
    observed, shuffled = matched_pairs(table.T, rng)
    p_value = float((shuffled >= observed - 1e-9).sum() + 1) / (len(shuffled) + 1)
    return observed, shuffled, p_value
