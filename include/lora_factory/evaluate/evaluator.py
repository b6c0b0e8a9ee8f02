"""Measures a LoRA against its base and against real images (article, 4.1 ``LoRAEvaluator``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.evaluation import Metric
from lora_factory.evaluate import gates, metrics
from lora_factory.evaluate.pairs import generate_pairs, time_one_picture
from lora_factory.evaluate.prompts import generate_eval_prompts
from lora_factory.evaluate.statistics import (
    REPLICATES,
    bootstrap,
    geometric_mean,
    interval,
)
from lora_factory.guard.copying import perceptual_hashes

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.evaluation import HardGate
    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.contracts.stage import StageContext
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.data import StyleData
    from lora_factory.evaluate.pairs import Timings
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.evaluate.statistics import Floats, Rows
    from lora_factory.guard.copying import Nearest
    from lora_factory.models.roles import ImageTextScorer, Vectors

NAMES = ("fidelity", "alignment", "diversity", "efficiency")
COARSEST = 0.25
"""Standard error of the alignment score above which it says too little to count."""
SEEDS = 1
"""Images a prompt; the statistics take more."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured; ``overall`` is the geometric mean of the scores that don't abstain."""

    metrics: tuple[Metric, ...]
    overall: float
    overall_low: float
    gates: tuple[HardGate, ...]
    nearest: tuple[Nearest, ...]
    base: tuple[Image, ...]
    lora: tuple[Image, ...]


class LoRAEvaluator:
    """One LoRA (the base's adapter ``pairs.ADAPTER``, loaded) on one dataset.

    The article's method names are kept. ``run_evaluation`` makes the pictures; the
    ``calculate_…`` methods read what it measured.
    """

    def __init__(
        self,
        base: DiffusionBase,
        data: StyleData,
        scorer: ImageTextScorer,
        spec: EvaluateSpec,
        ctx: StageContext,
    ) -> None:
        self.base = base
        self.data = data
        self.scorer = scorer
        self.spec = spec
        self.ctx = ctx
        self.prompts, self.blocked = self.generate_eval_prompts()
        self._rng = np.random.default_rng(spec.seed)
        self.pairs: metrics.Pairs
        self.words: Vectors
        self.sight: metrics.Readable
        self.timings: Timings

    def generate_eval_prompts(self) -> tuple[list[EvalPrompt], int]:
        """See :func:`lora_factory.evaluate.prompts.generate_eval_prompts`."""
        return generate_eval_prompts(
            self.data.info, self.data.anchors, self.spec.prompts, self.spec.seed
        )

    def run_evaluation(self) -> Evaluation:
        """Generate, time, embed once, score, and bootstrap.

        The interval is a two-level bootstrap (prompts, then seeds) of the whole formula,
        anchors included; timings are resampled beside.

        Raises:
            Interrupted: the stage was asked to stop.
        """
        base, lora = generate_pairs(self.base, self.prompts, self.spec, self.ctx)
        # Last use of the base: taking a fused adapter out again rounds half-precision weights.
        self.timings = self.test_inference_speed()
        vectors = self.scorer.embed_images([*base, *lora])
        self.measure(vectors[: len(base)], vectors[len(base) :])
        found = {
            "fidelity": self.calculate_fidelity(),
            "alignment": self.calculate_alignment(),
            "diversity": self.calculate_diversity(),
            "efficiency": self.calculate_efficiency(),
        }
        counted = [name for name in NAMES if found[name].score is not None]
        replicates = self._replicates()
        overall = geometric_mean([found[name].score or 0.0 for name in counted])
        columns = [NAMES.index(name) for name in counted]
        low, _ = interval(np.array([geometric_mean(row[columns]) for row in replicates]))
        nearest = self.data.copies.nearest(self.pairs.lora, perceptual_hashes(lora))
        return Evaluation(
            metrics=tuple(_with_interval(found, replicates)),
            overall=overall,
            overall_low=min(low, overall),
            gates=self._gates(base, lora, nearest),
            nearest=tuple(nearest),
            base=tuple(base),
            lora=tuple(lora),
        )

    def measure(self, base: Vectors, lora: Vectors) -> None:
        """Take in the embeddings (n×d each) of the generated pictures."""
        anchor = np.array([prompt.anchor for prompt in self.prompts], dtype=np.int64)
        self.pairs = metrics.Pairs(base, lora, anchor, self.data.real, self.data.text)
        self.sight = metrics.readable(self.pairs, self._rng)
        self.words = self.scorer.embed_texts([prompt.text for prompt in self.prompts])

    def calculate_fidelity(self) -> Metric:
        """Closeness to the style; the note holds the article's text CLIP delta as it is."""
        base, lora, real = metrics.style_similarity(self.pairs, self._rows)
        delta = float(((self.pairs.lora - self.pairs.base) * self.words).sum(axis=1).mean())
        note = (
            f"base {base:.3f}, real images {real:.3f}; "
            f"CLIP score with the prompt, LoRA − base: {delta:+.3f}"
        )
        score = metrics.fidelity(self.pairs, self._rows)
        return self._metric("fidelity", lora, "mean cosine to the style", score, note)

    def calculate_alignment(self) -> Metric:
        """Closeness to the words; abstains where the scorer can't read the real images."""
        pairs = self.pairs
        lora = float(metrics.match_margins(pairs, pairs.lora, pairs.anchor).mean())
        real = float(metrics.match_margins(pairs, pairs.real[pairs.anchor], pairs.anchor).mean())
        sight = self.sight
        note = (
            f"real images {real:+.3f}; on {len(pairs.real)} real pairs p = {sight.p_value:.4f}, "
            f"standard error by chance {sight.error:.2f}"
        )
        score: float | None = metrics.alignment(pairs, self._rows)
        if sight.p_value > gates.READABLE or real <= metrics.EPSILON:
            score = None
            note = f"abstains: the scorer can't tell real pairs from shuffled ones ({note})"
        elif sight.error > COARSEST:
            score = None
            count = len(self.prompts)
            note = f"abstains: {count} prompts are too few for what the scorer sees ({note})"
        return self._metric("alignment", lora, "cosine above other subjects", score, note)

    def calculate_diversity(self) -> Metric:
        """Variety against real images of the same subjects."""
        lora, real = metrics.diversity_of(self.pairs, self._rows)
        note = (
            f"real images {real.vendi:.2f}; "
            f"log-det {lora.log_det:.2f}, real images {real.log_det:.2f}"
        )
        score = metrics.diversity(self.pairs, self._rows)
        count = int(self.pairs.first.sum())
        return self._metric("diversity", lora.vendi, "Vendi score", score, note, count)

    def test_inference_speed(self) -> Timings:
        """See :func:`lora_factory.evaluate.pairs.time_one_picture`."""
        return time_one_picture(self.base, self.prompts[0], self.spec, self.ctx)

    def calculate_efficiency(self) -> Metric:
        """Time for one picture with the adapter fused (fusing and unfusing included)."""
        base, fused, swapped = self.timings.base, self.timings.fused, self.timings.swapped
        unit = "s of CPU" if self.base.device == "cpu" else "s"
        note = (
            f"base {base.min():.2f} {unit}; fused for one picture and taken out again; "
            f"kept beside the weights instead: {swapped.min() / base.min():.2f} × base"
        )
        ratio = float(fused.min() / base.min())
        score = metrics.efficiency(base, fused)
        return self._metric("efficiency", ratio, "× base time", score, note, len(base))

    @property
    def _rows(self) -> Rows:
        return np.arange(len(self.prompts))

    def _metric(
        self, name: str, value: float, unit: str, score: float | None, note: str, n: int = 0
    ) -> Metric:
        fields = {"name": name, "value": value, "unit": unit, "score": score, "note": note}
        return Metric.model_validate({**fields, "n": n or len(self.prompts)})

    def _replicates(self) -> Floats:
        """``REPLICATES``×4 scores, in the order of ``NAMES``."""
        times = len(self.timings.base)

        def scores(rows: Rows) -> Sequence[float]:
            runs = self._rng.integers(times, size=times)
            return (
                metrics.fidelity(self.pairs, rows),
                metrics.alignment(self.pairs, rows),
                metrics.diversity(self.pairs, rows),
                metrics.efficiency(self.timings.base[runs], self.timings.fused[runs]),
            )

        return bootstrap(scores, len(self.prompts) // SEEDS, SEEDS, self._rng, REPLICATES)

    def _gates(
        self, base: Sequence[Image], lora: Sequence[Image], nearest: Sequence[Nearest]
    ) -> tuple[HardGate, ...]:
        return (
            gates.effect(base, lora),
            gates.no_blank_images(lora),
            gates.no_copies(nearest, self.data.copies.cuts),
            gates.shows_subjects(metrics.alignment_ratio(self.pairs, self._rows), self.sight),
            gates.style_measurable(self.pairs, self._rows, self.data.note),
        )


def _with_interval(found: Mapping[str, Metric], replicates: Floats) -> list[Metric]:
    """Metrics with their 95% interval, where they have a score."""
    done = []
    for column, name in enumerate(NAMES):
        metric = found[name]
        if metric.score is not None:
            low, high = interval(replicates[:, column])
            metric = metric.model_copy(update={"low": low, "high": high})
        done.append(metric)
    return done
