"""Recommended settings, found by trying them (article, 3.2 ``suggest_inference_params``).

A few prompts are drawn at every strength × number of steps; the cheapest setting that is as
good as the best one, within a margin, is recommended. Guidance is the evaluation's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_factory.contracts.evaluation import RecommendedSettings, SettingTrial
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.evaluate import metrics
from lora_factory.evaluate.statistics import geometric_mean
from lora_factory.evaluate.xyz import STRENGTHS

if TYPE_CHECKING:
    from lora_factory.contracts.evaluation import Constants
    from lora_factory.evaluate.pairs import Adapter, Painter
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.evaluate.statistics import Floats
    from lora_factory.models.roles import ImageTextScorer

MARGIN = 0.03
"""Quality by which two settings may differ and still be taken as equally good."""
BLIND_MARGIN = 0.1
"""The same where alignment can't be read: a stronger adapter buys style with subjects that
nothing here would miss, so more has to be gained before strength 1 is left."""


def recommend_settings(
    painter: Painter,
    adapter: Adapter,
    prompts: Sequence[EvalPrompt],
    pairs: metrics.Pairs,
    scorer: ImageTextScorer,
    *,
    constants: Constants,
    readable: bool,
) -> RecommendedSettings:
    """Try strength × steps on the first ``spec.settings_prompts`` different prompts.

    Args:
        painter: of the LoRA's base; it keeps what it paints, so that a retry goes on.
        adapter: the LoRA, loaded.
        prompts: as evaluated.
        pairs: their embeddings, row by row, at strength 1 and the spec's steps.
        scorer: embeds the new pictures.
        constants: of the scores.
        readable: whether alignment counts (the evaluation's own did not abstain).

    Raises:
        Interrupted: the stage was asked to stop; pictures made so far are kept.
    """
    spec = painter.spec
    first: dict[str, int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(prompt.text, row)  # one seed each
    rows = list(first.values())[: spec.settings_prompts]
    few = [prompts[row] for row in rows]
    known = metrics.Pairs(
        pairs.base[rows], pairs.lora[rows], pairs.anchor[rows], pairs.real, pairs.text
    )
    trials = []
    for steps in sorted({max(spec.steps // 2, 1), spec.steps}):
        seconds = round(_seconds(painter, adapter, steps, few[0]), 3)
        for strength in STRENGTHS:
            tried = known
            if (strength, steps) != (1.0, spec.steps):
                what = f"settings, {strength:g} in {steps} steps"
                images = painter.paint(few, adapter, strength=strength, steps=steps, what=what)
                tried = replace(known, lora=scorer.embed_images(images))
            scores = metrics.quality_scores(tried, constants)
            trials.append(_trial(strength, steps, scores, seconds, readable=readable))
    best = pick(trials)
    counted = "style and alignment" if readable else "style alone, alignment being unreadable"
    return RecommendedSettings(
        strength=best.strength,
        steps=best.steps,
        guidance=spec.guidance,
        prompts=len(few),
        seconds_unit="s of CPU" if painter.base.device == "cpu" else "s",
        trials=tuple(trials),
        note=(
            f"fewest steps, then strength nearest 1, within {margin(trials):g} of the best "
            f"by {counted}"
        ),
    )


def _trial(
    strength: float, steps: int, scores: Mapping[str, Floats], seconds: float, *, readable: bool
) -> SettingTrial:
    return SettingTrial(
        strength=strength,
        steps=steps,
        style=round(float(scores["fidelity"][0]), 4),
        alignment=round(float(scores["alignment"][0]), 4) if readable else None,
        seconds=seconds,
    )


def quality(trial: SettingTrial) -> float:
    """Geometric mean of what could be measured."""
    return geometric_mean(
        [trial.style] if trial.alignment is None else [trial.style, trial.alignment]
    )


def margin(trials: Sequence[SettingTrial]) -> float:
    """By how much trials may differ and still be taken as equally good."""
    return BLIND_MARGIN if any(trial.alignment is None for trial in trials) else MARGIN


def pick(trials: Sequence[SettingTrial]) -> SettingTrial:
    """Fewest steps, then strength nearest 1, of those within the margin of the best."""
    best = max(quality(trial) for trial in trials)
    good = [trial for trial in trials if quality(trial) >= best - margin(trials)]
    return min(good, key=lambda trial: (trial.steps, abs(trial.strength - 1.0)))


def _seconds(painter: Painter, adapter: Adapter, steps: int, prompt: EvalPrompt) -> float:
    """One picture alone, the faster of two runs; processor time on a CPU (see ``Timings``)."""
    base = painter.base
    clock = time.process_time if base.device == "cpu" else time.perf_counter
    base.use_adapter(adapter.name)
    found = []
    for _ in range(2):
        painter.ctx.check_stop()
        start = clock()
        base.generate(
            [GenerationRequest(prompt.text, prompt.seed)],
            steps=steps,
            guidance=painter.spec.guidance,
            batch_size=1,
        )
        found.append(clock() - start)
    return min(found)
