"""The four scores (article, 4.1), as pure functions of embeddings and timings.

Each is anchored, so that 1 means "as good as the real images of this style" (or as fast as
the base) and 0 means "no better than the base" (or collapsed). All embeddings are rows of
unit length in the scorer's joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.evaluate.statistics import matched_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.evaluate.statistics import Floats, Rows
    from lora_factory.models.roles import Vectors

EPSILON = 1e-9
LOGDET_FLOOR = 1e-3
"""Added to the eigenvalues in the log-determinant, which would be −∞ for one twin pair."""


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


@dataclass(frozen=True)
class Pairs:
    """What paired generations look like to the scorer.

    Args:
        base: n×d, images of the base alone.
        lora: n×d, images with the LoRA: same prompts, seeds and scheduler, row by row.
        anchor: n, which real image (row of ``real``) each prompt's subject is taken from.
        real: m×d, real images of the style; m ≥ 2.
        text: m×d, their subjects (captions without trigger and style words).
    """

    base: Vectors
    lora: Vectors
    anchor: NDArray[np.int64]
    real: Vectors
    text: Vectors

    @cached_property
    def first(self) -> NDArray[np.bool_]:
        """n: whether a row is the first with its real image."""
        seen = np.zeros(len(self.anchor), dtype=bool)
        seen[np.unique(self.anchor, return_index=True)[1]] = True
        return seen


def style_without(pairs: Pairs, subject: Rows) -> Vectors:
    """k subjects → k×d: the mean of all real images but the subject's own (leave one out)."""
    found: Vectors = (pairs.real.sum(axis=0) - pairs.real[subject]) / (len(pairs.real) - 1)
    return found


def style_similarity(pairs: Pairs, rows: Rows) -> tuple[float, float, float]:
    """Mean cosine to the style of (base, LoRA, real) images.

    Every image is compared with all real images but the one its prompt was taken from;
    the real one likewise, so that the three are measured alike.
    """
    anchor = pairs.anchor[rows]
    style = style_without(pairs, anchor)
    base, lora, real = (
        float((images * style).sum(axis=1).mean())
        for images in (pairs.base[rows], pairs.lora[rows], pairs.real[anchor])
    )
    return base, lora, real


def fidelity(pairs: Pairs, rows: Rows) -> float:
    """0: no closer to the style than the base; 1: as close as real images are to each other.

    (LoRA − base) / (real − base) of :func:`style_similarity`, clipped to [0, 1]. 0 where
    the base is as close as the real ones (nothing to be measured; see the gate).
    """
    base, lora, real = style_similarity(pairs, rows)
    return _clip((lora - base) / (real - base)) if real - base > EPSILON else 0.0


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


def alignment_ratio(pairs: Pairs, rows: Rows) -> float:
    """Mean :func:`match_margins` of the LoRA's images over that of the real ones, unclipped.

    Anchored on real images of the same subjects, not on the base: a style can be harder for
    the scorer to read than what the base draws. 0 where the real margin is not positive.
    """
    anchor = pairs.anchor[rows]
    real = float(match_margins(pairs, pairs.real[anchor], anchor).mean())
    lora = float(match_margins(pairs, pairs.lora[rows], anchor).mean())
    return lora / real if real > EPSILON else 0.0


def alignment(pairs: Pairs, rows: Rows) -> float:
    """0: images don't show their subjects; 1: as clearly as the real images do.

    :func:`alignment_ratio`, clipped to [0, 1]; the metric abstains where the scorer can't
    read the style (see :func:`readable`).
    """
    return _clip(alignment_ratio(pairs, rows))


def readable(pairs: Pairs, rng: np.random.Generator) -> Readable:
    """Can the scorer tell the real images' own texts from shuffled ones?"""
    every = np.arange(len(pairs.real))
    # margins of every image with every text: row i, column j holds image i as subject j.
    table = np.stack([match_margins(pairs, pairs.real, np.full_like(every, j)) for j in every])
    observed, shuffled = matched_pairs(table.T, rng)
    p_value = float((shuffled >= observed - 1e-9).sum() + 1) / (len(shuffled) + 1)
    noise = float(shuffled.std()) * np.sqrt(len(every) / len(pairs.anchor))
    return Readable(p_value, float(noise / observed) if observed > EPSILON else float("inf"))


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
    positive = eigen[eigen > 1e-12]
    entropy = -float((positive * np.log(positive)).sum())
    return Diversity(float(np.exp(entropy)), float(np.log(eigen + LOGDET_FLOOR).mean()))


def diversity_of(pairs: Pairs, rows: Rows) -> tuple[Diversity, Diversity]:
    """Spread of (LoRA, real) images at equal n and of the same subjects, one image each."""
    rows = rows[pairs.first[rows]]
    return spread(pairs.lora[rows]), spread(pairs.real[pairs.anchor[rows]])


def diversity(pairs: Pairs, rows: Rows) -> float:
    """0: collapsed to one image; 1: as varied as the real images of the same subjects.

    (Vendi − 1) / (Vendi of real − 1), clipped to [0, 1]; 0 where there is no variety to
    compare with.
    """
    lora, real = diversity_of(pairs, rows)
    return _clip((lora.vendi - 1) / (real.vendi - 1)) if real.vendi - 1 > EPSILON else 0.0


def efficiency(base_seconds: Floats, lora_seconds: Floats) -> float:
    """Fastest base run / fastest LoRA run, at most 1.

    The fastest of several runs is the one that other load on the machine disturbed least.
    """
    return _clip(float(base_seconds.min() / max(lora_seconds.min(), EPSILON)))


def _clip(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
