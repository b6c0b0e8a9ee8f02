"""Measures a LoRA against its base and against real images (article, 4.1 ``LoRAEvaluator``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.contracts.evaluation import Candidate, Comparison, Metric
from lora_factory.evaluate import gates, metrics, sets
from lora_factory.evaluate.measured import Measured
from lora_factory.evaluate.pairs import base_megabytes, time_one_picture
from lora_factory.evaluate.prompts import split_prompts, with_trigger
from lora_factory.evaluate.statistics import geometric_means, interval, resample, with_estimate
from lora_factory.guard.copying import perceptual_hashes

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.evaluation import Constants, HardGate, MetricName
    from lora_factory.evaluate.data import StyleData
    from lora_factory.evaluate.pairs import Adapter, Painter, Timings
    from lora_factory.evaluate.prompts import EvalPrompt, PromptSplits
    from lora_factory.evaluate.statistics import Floats
    from lora_factory.guard.copying import Nearest
    from lora_factory.guard.output import OutputGuard
    from lora_factory.models.judges import PictureJudge
    from lora_factory.models.roles import ImageTextScorer, Vectors

NAMES = ("fidelity", "alignment", "diversity", "efficiency", "typicality", "adherence", "drift")
"""Metrics of every evaluation that have a score."""
QUALITY = ("fidelity", "alignment", "diversity")
"""What checkpoints and models are compared by, as far as it counts. Typicality is not asked: it is
noisy on few prompts, and 0 for all weak LoRAs, however they differ."""
COARSEST = 0.25
"""Standard error of the alignment score above which it says too little to count."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured; ``overall`` is the geometric mean of the counted scores."""

    metrics: tuple[Metric, ...]
    overall: float
    overall_low: float
    gates: tuple[HardGate, ...]
    comparison: Comparison | None


@dataclass(frozen=True)
class Rival:
    """The deployed LoRA, ready to be drawn; ``lora`` is its artifact's URI."""

    painter: Painter
    adapter: Adapter
    trigger: str
    lora: str
    checkpoint: str


class LoRAEvaluator:
    """LoRAs of one base on one dataset; the article's method names are kept.

    ``choose`` picks among a LoRA's checkpoints, ``draw`` makes the chosen one's pictures and
    embeds them once, ``run_evaluation`` scores them. Measurements are arrays: the estimate
    first, then the replicates of a two-level bootstrap (prompts, then seeds), anchors
    included; timings are resampled beside.
    """

    adapter: Adapter
    base: list[Image]
    lora: list[Image]
    drift_base: list[Image]
    drift_lora: list[Image]
    nearest: list[Nearest]
    pairs: metrics.Pairs
    drift: metrics.Drift
    sight: metrics.Readable
    timings: Timings

    def __init__(
        self,
        painter: Painter,
        data: StyleData,
        scorer: ImageTextScorer,
        constants: Constants,
        guard: OutputGuard,
        judges: Sequence[PictureJudge] = (),
    ) -> None:
        self.painter = painter
        self.data = data
        self.scorer = scorer
        self.constants = constants
        self.guard = guard
        self.judges = tuple(judges)
        self.spec = painter.spec
        self.splits = self.generate_eval_prompts()
        self.prompts = self.splits.report
        self._rng = np.random.default_rng(self.spec.seed)
        self._weights = self._resampled(len(self.prompts) // self.spec.seeds, self.spec.seeds)

    def generate_eval_prompts(self) -> PromptSplits:
        """See :func:`lora_factory.evaluate.prompts.split_prompts`."""
        data = self.data
        return split_prompts(data.info, data.anchors, data.shown, self.spec)

    def choose(self, candidates: Mapping[str, Adapter]) -> tuple[str, tuple[Candidate, ...]]:
        """The best of a LoRA's files on the choosing prompts; of equals, the first.

        By the geometric mean of fidelity, alignment (unless it abstains) and diversity, as far
        as they count.

        Args:
            candidates: file → its adapter, loaded.

        Raises:
            Interrupted: the stage was asked to stop.
        """
        first, prompts = next(iter(candidates)), self.splits.choose
        if len(candidates) == 1 or not prompts:
            return first, ()
        base = self.scorer.embed_images(self.painter.paint(prompts, what="base, choosing"))
        found = {}
        for file, adapter in candidates.items():
            images = self.painter.paint(prompts, adapter, what=f"{file}, choosing")
            pairs, _ = self._pair(prompts, base, images)
            sight = metrics.readable(pairs, len(prompts), np.random.default_rng(0))
            scores = metrics.quality_scores(pairs, self.constants)
            names = counted_quality(self.constants, blind=abstains(pairs, sight))
            found[file] = float(overall_of(scores, names)[0])
        best = max(found, key=lambda file: found[file])
        return best, tuple(
            Candidate(checkpoint=file, overall=overall, n=len(prompts))
            for file, overall in found.items()
        )

    def draw(self, adapter: Adapter) -> None:
        """Pictures of the base and of ``adapter`` on the reporting and the drift prompts.

        Raises:
            Interrupted: the stage was asked to stop; what is made so far is kept.
        """
        self.adapter = adapter
        paint, prompts = self.painter.paint, self.prompts
        self.base = paint(prompts, what="base")
        self.lora = paint(prompts, adapter, what="LoRA")
        self.pairs, self.nearest = self._pair(
            prompts, self.scorer.embed_images(self.base), self.lora
        )
        self.sight = metrics.readable(self.pairs, len(prompts) // self.spec.seeds, self._rng)
        drift = self.splits.drift
        others = [prompt.other_seed() for prompt in drift]
        self.drift_base = paint(drift, what="base, drift")
        self.drift_lora = paint(drift, adapter, what="LoRA, drift")
        sides = (self.drift_base, paint(others, what="base, drift, other seeds"), self.drift_lora)
        self.drift = metrics.Drift(*(self.scorer.embed_images(images) for images in sides))

    def run_evaluation(self, rival: Rival | None = None) -> Evaluation:
        """Time, score, compare and bootstrap what :meth:`draw` made.

        The last use of the base: taking a fused adapter out again rounds half-precision
        weights.

        Args:
            rival: the deployed LoRA that this one must beat.

        Raises:
            Interrupted: the stage was asked to stop.
        """
        comparison = None if rival is None else self.compare(rival)
        self.timings = self.test_inference_speed()
        found = [
            self.calculate_fidelity(),
            self.calculate_alignment(),
            self.calculate_diversity(),
            self.calculate_efficiency(),
            self.calculate_typicality(),
            self.calculate_adherence(),
            self.calculate_drift(),
            *self.calculate_set_distances(),
            *self.ask_judges(),
        ]
        scores = {one.name: one.score for one in found if one.counted and one.score is not None}
        overall = overall_of(scores, list(scores))
        closed = self._gates()
        if comparison is not None:
            closed = (*closed, gates.beats_incumbent(comparison))
        return Evaluation(
            metrics=tuple(one.metric() for one in found),
            overall=float(overall[0]),
            overall_low=min(interval(overall[1:])[0], float(overall[0])),
            gates=closed,
            comparison=comparison,
        )

    def compare(self, rival: Rival) -> Comparison:
        """Against the deployed LoRA, on the same prompts (its trigger put in) and seeds.

        Both are scored on the same base pictures and real images, efficiency left out.

        Raises:
            Interrupted: the stage was asked to stop.
        """
        prompts = with_trigger(self.prompts, self.data.info.trigger, rival.trigger)
        images = rival.painter.paint(prompts, rival.adapter, what="deployed LoRA", shared=True)
        pairs, _ = self._pair(self.prompts, self.pairs.base, images)
        names = counted_quality(self.constants, blind=self.blind())
        mine, its = (
            overall_of(metrics.quality_scores(one, self.constants, self._weights), names)
            for one in (self.pairs, pairs)
        )
        low, high = interval((mine - its)[1:])
        return Comparison(
            lora=rival.lora,
            checkpoint=rival.checkpoint,
            overall=float(mine[0]),
            incumbent=float(its[0]),
            difference=float(mine[0] - its[0]),
            low=low,
            high=high,
            n=len(prompts),
        )

    def calculate_fidelity(self) -> Measured:
        """Closeness to the style; the note holds the article's text CLIP delta as it is."""
        base, lora, real = metrics.style_similarity(self.pairs, self._weights)
        words = self.scorer.embed_texts([prompt.text for prompt in self.prompts])
        delta = float(((self.pairs.lora - self.pairs.base) * words).sum(axis=1).mean())
        note = (
            f"base {base[0]:.3f}, real images {real[0]:.3f}; "
            f"CLIP score with the prompt, LoRA − base: {delta:+.3f}"
        )
        raw = metrics.raw_fidelity(self.pairs, self._weights)
        score = metrics.scaled(raw, self.constants.fidelity)
        return self._measured("fidelity", "mean cosine to the style", lora, score, note)

    def calculate_alignment(self) -> Measured:
        """Closeness to the words; abstains where the scorer can't read the real images."""
        lora, real = (metrics.mean_of(m, self._weights) for m in self.pairs.margins)
        sight = self.sight
        note = (
            f"real images {real[0]:+.3f}; on {len(self.pairs.real)} real pairs "
            f"p = {sight.p_value:.4f}, standard error by chance {sight.error:.2f}"
        )
        raw = metrics.raw_alignment(self.pairs, self._weights)
        score: Floats | None = metrics.scaled(raw, self.constants.alignment)
        if self.blind():
            score = None
            why = "the scorer can't tell real pairs from shuffled ones"
            if sight.p_value <= gates.READABLE:
                why = f"{len(self.prompts)} pictures are too few for what the scorer sees"
            note = f"abstains: {why} ({note})"
        return self._measured("alignment", "cosine above other subjects", lora, score, note)

    def calculate_diversity(self) -> Measured:
        """Variety inside the style, against real images of the same subjects."""
        lora, real = metrics.diversity_of(self.pairs)
        percentile = self.constants.in_style_percentile
        quality = metrics.quality(self.pairs, percentile)
        note = (
            f"mean quality {quality.mean():.2f}; plain Vendi {lora.vendi:.2f}, real images "
            f"{real.vendi:.2f}; log-det {lora.log_det:.2f}, real images {real.log_det:.2f}"
        )
        raw = metrics.raw_diversity(self.pairs, percentile, self._weights)
        score = metrics.scaled(raw, self.constants.diversity)
        return self._measured(
            "diversity", "× real images' Vendi", raw, score, note, n=len(self.pairs.first)
        )

    def test_inference_speed(self) -> Timings:
        """See :func:`lora_factory.evaluate.pairs.time_one_picture`."""
        return time_one_picture(self.painter, self.adapter, self.prompts[0])

    def calculate_efficiency(self) -> Measured:
        """Time for one picture with the adapter fused (fusing and unfusing included)."""
        base, fused, swapped = self.timings.base, self.timings.fused, self.timings.swapped
        unit = "s of CPU" if self.painter.base.device == "cpu" else "s"
        memory = base_megabytes(self.painter.base.entry)
        beside = f" beside the base's {memory:.1f}" if memory else ""
        note = (
            f"base {base.min():.2f} {unit}; fused for one picture and taken out again; "
            f"kept beside the weights instead: {swapped.min() / base.min():.2f} × base; hot swap "
            f"{self.adapter.seconds:.2f} s, {self.adapter.size / 1e6:.1f} MB{beside}"
        )
        runs = self._rng.integers(len(base), size=(len(self._weights), len(base)))
        runs[0] = np.arange(len(base))
        raw = metrics.raw_efficiency(base[runs], fused[runs])
        return Measured(
            name="efficiency",
            unit="× base time",
            value=1 / raw,
            score=metrics.scaled(raw, self.constants.efficiency),
            n=len(base),
            note=note,
            counted="efficiency" in self.constants.counted,
        )

    def calculate_typicality(self) -> Measured:
        """How often pictures are closer to the style than real images are."""
        raw = metrics.raw_typicality(self.pairs, self._weights)
        scale = self.constants.typicality
        note = (
            "share of pairs with a real image in which the picture is closer to the style, from "
            f"the base's share (0) to one half (1); {scale.one:.2f} scores 1"
        )
        score = metrics.scaled(raw, scale)
        if not score[0]:
            note = (
                "pictures come as close to the style as real images no more often than the base's: "
                f"it is learned too weakly for this score, see fidelity; {note}"
            )
        return self._measured("typicality", "of real images' closeness", raw, score, note)

    def calculate_adherence(self) -> Measured:
        """How far pictures have to do with their own prompts, against the base's."""
        base, lora = (metrics.mean_of(m, self._weights) for m in self.pairs.adherence)
        raw = metrics.raw_adherence(self.pairs, self._weights)
        note = (
            f"the base's own {base[0]:.2f}, so {raw[0]:.2f} of it; words, real image of the "
            "subject and the base's picture together"
        )
        score: Floats | None = metrics.scaled(raw, self.constants.adherence)
        if self.sight.p_value > gates.READABLE:
            score = None
            note = f"abstains: the scorer can't tell real pairs from shuffled ones ({note})"
        return self._measured("adherence", "cosines above other prompts", lora, score, note)

    def calculate_drift(self) -> Measured:
        """What the LoRA does to prompts that are none of its business; 1 is nothing."""
        count = len(self.splits.drift)
        if count < 2:
            none = np.zeros(len(self._weights))
            note = "abstains: the dataset shows all things there are drift prompts for"
            return self._measured("drift", "share of the base kept", none, None, note, n=count)
        raw = metrics.raw_drift(self.drift, self._resampled(count, 1))
        kept = float((self.drift.lora * self.drift.base).sum(axis=1).mean())
        style = self.pairs.real.mean(axis=0)
        leak = float(((self.drift.lora - self.drift.base) @ style).mean())
        base, _, real = self.pairs.closeness.mean(axis=1)
        note = (
            f"prompts without trigger and style; cosine with the base's picture {kept:.3f}; "
            f"moved {leak / max(real - base, metrics.EPSILON):+.2f} of the way to the style"
        )
        score = metrics.scaled(raw, self.constants.drift)
        return self._measured("drift", "share of the base kept", raw, score, note, n=count)

    def calculate_set_distances(self) -> list[Measured]:
        """CMMD and KID of the LoRA's pictures to the real images; reported, no score."""
        pairs = self.pairs
        weights = (self._weights, self._resampled(len(pairs.real), 1))
        found = []
        kinds: tuple[tuple[MetricName, str, Any], ...] = (
            ("cmmd", "1000 × MMD², RBF", sets.cmmd),
            ("kid", "MMD², cubic", sets.kid),
        )
        for name, unit, distance in kinds:
            base = float(distance(pairs.base, pairs.real)[0])
            note = f"to {len(pairs.real)} real images; the base's own pictures {base:.3f}"
            value = distance(pairs.lora, pairs.real, weights)
            found.append(self._measured(name, unit, value, None, note))
        return found

    def ask_judges(self) -> list[Measured]:
        """Optional roles of the profile: aesthetics, and preference over the base's picture."""
        texts = [prompt.text for prompt in self.prompts]
        found = []
        for judge in self.judges:
            base, lora = (judge.scores(images, texts) for images in (self.base, self.lora))
            values, note = judge.verdict(base, lora)
            value = metrics.mean_of(values, self._weights)
            found.append(
                self._measured(judge.metric, judge.unit, value, None, note, scorer=judge.name)
            )
        return found

    def _pair(
        self, prompts: Sequence[EvalPrompt], base: Vectors, images: Sequence[Image]
    ) -> tuple[metrics.Pairs, list[Nearest]]:
        return pair_up(self.data, self.scorer, prompts, base, images)

    def _resampled(self, prompts: int, seeds: int) -> Floats:
        """(1 + B)×rows weights: every row once, then the bootstrap's."""
        return with_estimate(resample(prompts, seeds, self._rng))

    def blind(self) -> bool:
        """Whether alignment abstains on the pictures drawn."""
        return abstains(self.pairs, self.sight)

    def _measured(
        self,
        name: MetricName,
        unit: str,
        value: Floats,
        score: Floats | None,
        note: str,
        **others: Any,
    ) -> Measured:
        """By default: of all the reporting pictures, as the scorer sees them."""
        usual: dict[str, Any] = {
            "n": len(self.prompts),
            "scorer": self.scorer.name,
            "counted": name in self.constants.counted,
        }
        return Measured(name, unit, value, score, note=note, **(usual | others))

    def _gates(self) -> tuple[HardGate, ...]:
        ratio = float(metrics.raw_alignment(self.pairs)[0])
        own = metrics.own_matches(self.pairs, np.random.default_rng(self.spec.seed))
        least = self.constants.least_alignment
        low = adherence_low(self.pairs, self._weights)
        return (
            gates.effect(self.base, self.lora),
            gates.no_blank_images(self.lora),
            gates.no_copies(self.nearest, self.data.copies.cuts),
            gates.safe_images(self.guard.check(self.lora)),
            gates.shows_subjects(ratio, self.sight, least, own, low),
            gates.style_measurable(self.pairs, self.data.note),
        )


def pair_up(
    data: StyleData,
    scorer: ImageTextScorer,
    prompts: Sequence[EvalPrompt],
    base: Vectors,
    images: Sequence[Image],
) -> tuple[metrics.Pairs, list[Nearest]]:
    """What the scorer sees of n pictures beside the base's (n×d), and the originals nearest."""
    lora = scorer.embed_images(images)
    nearest = data.copies.nearest(lora, perceptual_hashes(images))
    sound = [
        not near.copied and not gates.is_blank(image)
        for near, image in zip(nearest, images, strict=True)
    ]
    anchor = np.array([prompt.anchor for prompt in prompts], dtype=np.int64)
    return metrics.Pairs(base, lora, anchor, data.real, data.text, np.array(sound)), nearest


def counted_quality(constants: Constants, *, blind: bool) -> list[str]:
    """The names of ``QUALITY`` that count; ``blind``: alignment abstains."""
    return [
        name
        for name in QUALITY
        if name in constants.counted and not (blind and name == "alignment")
    ]


def adherence_low(pairs: metrics.Pairs, weights: Floats) -> float:
    """Lower end of the 95% interval of ``metrics.raw_adherence``; ``weights``: 1 + B rows."""
    return interval(metrics.raw_adherence(pairs, weights)[1:])[0]


def abstains(pairs: metrics.Pairs, sight: metrics.Readable) -> bool:
    """Whether alignment says too little to count."""
    real = float(pairs.margins[1].mean())
    blind = sight.p_value > gates.READABLE or real <= metrics.EPSILON
    return blind or sight.error > COARSEST


def overall_of(scores: Mapping[Any, Floats], names: Sequence[str]) -> Floats:
    """Geometric mean of the named scores, replicate by replicate."""
    if not names:
        return np.zeros(len(next(iter(scores.values()), np.zeros(1))))
    return geometric_means(np.column_stack([scores[name] for name in names]))
