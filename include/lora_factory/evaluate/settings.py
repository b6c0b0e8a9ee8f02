"""Recommended settings, found by trying them (article, 3.2 ``suggest_inference_params``).

A few prompts are drawn at every strength × number of steps; the cheapest setting that is as
good as the best one, within ``MARGIN``, is recommended. Guidance is the evaluation's own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.evaluation import RecommendedSettings, SettingTrial
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.evaluate import metrics
from lora_factory.evaluate.statistics import geometric_mean
from lora_factory.evaluate.xyz import STRENGTHS, Easel

if TYPE_CHECKING:
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.models.roles import ImageTextScorer, Vectors

PROMPTS = 5
MARGIN = 0.03
"""Quality by which two settings may differ and still be taken as equally good."""


def recommend_settings(
    easel: Easel,
    adapter: str,
    prompts: Sequence[EvalPrompt],
    pairs: metrics.Pairs,
    scorer: ImageTextScorer,
    *,
    readable: bool,
) -> RecommendedSettings:
    """Try strength × steps on the first ``PROMPTS`` prompts.

    Args:
        easel: draws.
        adapter: name of the LoRA in the easel's base.
        prompts: as evaluated.
        pairs: their embeddings, row by row, at strength 1 and the spec's steps.
        scorer: embeds the new pictures.
        readable: whether alignment counts (the evaluation's own did not abstain).

    Raises:
        Interrupted: the stage was asked to stop; pictures made so far are kept.
    """
    prompts = list(prompts[:PROMPTS])
    trials = []
    for steps in (max(easel.spec.steps // 2, 1), easel.spec.steps):
        seconds = _seconds(easel, adapter, steps, prompts[0])
        for strength in STRENGTHS:
            if strength == 1.0 and steps == easel.spec.steps:
                lora = pairs.lora[: len(prompts)]
            else:
                lora = scorer.embed_images(easel.draw(adapter, strength, steps, prompts))
            trials.append(_trial(_part(pairs, lora), readable, strength, steps, seconds))
    trials = sorted(set(trials), key=lambda trial: (trial.steps, trial.strength))
    best = pick(trials)
    alignment = "style and alignment" if readable else "style alone, alignment being unreadable"
    return RecommendedSettings(
        strength=best.strength,
        steps=best.steps,
        guidance=easel.spec.guidance,
        prompts=len(prompts),
        seconds_unit="s of CPU" if easel.base.device == "cpu" else "s",
        trials=tuple(trials),
        note=f"fewest steps, then strength nearest 1, within {MARGIN:g} of the best by {alignment}",
    )


def quality(trial: SettingTrial) -> float:
    """Geometric mean of what could be measured."""
    return geometric_mean(
        [trial.style] if trial.alignment is None else [trial.style, trial.alignment]
    )


def pick(trials: Sequence[SettingTrial]) -> SettingTrial:
    """Fewest steps, then strength nearest 1, of those within ``MARGIN`` of the best."""
    best = max(quality(trial) for trial in trials)
    good = [trial for trial in trials if quality(trial) >= best - MARGIN]
    return min(good, key=lambda trial: (trial.steps, abs(trial.strength - 1.0)))


def _part(pairs: metrics.Pairs, lora: Vectors) -> metrics.Pairs:
    """The pairs of the first prompts, with other pictures of the LoRA."""
    count = len(lora)
    return metrics.Pairs(pairs.base[:count], lora, pairs.anchor[:count], pairs.real, pairs.text)


def _trial(
    pairs: metrics.Pairs, readable: bool, strength: float, steps: int, seconds: float
) -> SettingTrial:
    rows = np.arange(len(pairs.lora))
    return SettingTrial(
        strength=strength,
        steps=steps,
        style=round(metrics.fidelity(pairs, rows), 4),
        alignment=round(metrics.alignment(pairs, rows), 4) if readable else None,
        seconds=round(seconds, 3),
    )


def _seconds(easel: Easel, adapter: str, steps: int, prompt: EvalPrompt) -> float:
    """One picture alone, the faster of two runs; processor time on a CPU (see ``Timings``)."""
    base = easel.base
    clock = time.process_time if base.device == "cpu" else time.perf_counter
    base.use_adapter(adapter)
    found = []
    for _ in range(2):
        easel.ctx.check_stop()
        start = clock()
        base.generate(
            [GenerationRequest(prompt.text, prompt.seed)],
            steps=steps,
            guidance=easel.spec.guidance,
            batch_size=1,
        )
        found.append(clock() - start)
    return min(found)
