"""Stage evaluate: lora + dataset → evaluation.

Files: ``report.json`` (EvaluationReport), ``report.html``, ``grid.png``, ``advice.json``
(Advice), ``images/base/*.png`` and ``images/lora/*.png`` (row by row the same prompt and
seed; ``pairs.jsonl`` tells which).

Verdict: every hard gate open, and ``overall`` ≥ the spec's threshold, where

    overall = (∏ scores that don't abstain) ^ (1 / their number)

over fidelity, alignment, diversity and efficiency, each anchored in [0, 1] (``metrics``).
The point estimate is compared; ``overall_low``, the lower end of its 95% interval, is
reported beside it. Nothing here is calibrated on people's judgement.

Efficiency times one picture with the adapter fused into the weights, fusing and unfusing
included: what a picture costs a server that fuses what it serves. Adapter layers kept beside
the weights, as this package's serving app keeps them, cost more (1.4–1.7 × on a small UNet on a
CPU); that figure is in the metric's note.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract, Counts
from lora_factory.contracts.evaluation import EvaluationReport, HardGate, Metric
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, ModelError
from lora_factory.evaluate import gates
from lora_factory.evaluate.advice import advise
from lora_factory.evaluate.data import load_style, open_image
from lora_factory.evaluate.evaluator import NAMES, Evaluation, LoRAEvaluator
from lora_factory.evaluate.grid import MAX_PROMPTS, GridRow, draw_grid, draw_notice
from lora_factory.evaluate.html import (
    ReportPictures,
    nearest_in_words,
    render_html,
    verdict_in_words,
)
from lora_factory.evaluate.items import advise_items, copied_items
from lora_factory.evaluate.pairs import ADAPTER
from lora_factory.models.loaders import image_text_scorer, limit_threads
from lora_factory.models.profiles import load_profile

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.models.profiles import BaseEntry, Profile

log = logging.getLogger(__name__)
KIND: Kind = "evaluation"
VERSION = 1
SPEC = EvaluateSpec
SCORER = "image_text_scorer"


class PairRecord(Contract):
    """One line of ``pairs.jsonl``: what made a pair, and the training image nearest to it."""

    file_name: str = Field(description="Under images/base and images/lora")
    prompt: str
    seed: int
    nearest: str = Field(description="sha256-named file of the dataset's train folder")
    similarity: float = Field(description="Cosine of the LoRA's picture with it")
    hash_distance: int = Field(ge=0, le=64, description="Bits")
    copied: bool


def roles(spec: EvaluateSpec) -> tuple[str, ...]:  # noqa: ARG001  (part of the stage's shape)
    """The scorer, and all bases, since the LoRA's manifest names which one it needs."""
    return (SCORER, "bases")


def run(spec: EvaluateSpec, ctx: StageContext) -> EvaluationReport:
    """Judge a LoRA.

    Raises:
        ModelError: the LoRA file is damaged, or its base is missing or has changed.
        DataError: the dataset can't be used, or holds too few images.
        ArtifactError: the LoRA's manifest tells neither base nor trigger.
        Interrupted: asked to stop; the pictures made so far are kept.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    lora, dataset = ctx.inputs["lora"], ctx.inputs["dataset"]
    trained = _trained(lora)
    file = lora.path / "lora.safetensors"
    opening = [gates.finite_weights(file)]
    scorer = image_text_scorer(profile)
    if not opening[0].passed:
        return _refuse(spec, ctx, trained, scorer.name, opening)
    base = load_base(_entry(profile, lora, trained.base))
    try:
        base.load_adapter(ADAPTER, file)
    except ModelError as err:
        return _refuse(spec, ctx, trained, scorer.name, [*opening, gates.keys_used(str(err))])
    opening.append(gates.keys_used(""))
    data = load_style(
        dataset.path,
        scorer,
        stored=dataset.manifest.models.get(SCORER) == profile.role(SCORER).resolve_revision(),
        check_stop=ctx.check_stop,
    )
    evaluator = LoRAEvaluator(base, data, scorer, spec, ctx)
    found = evaluator.run_evaluation()
    report = _judge(spec, trained, evaluator, found, opening)
    _write_pictures(ctx.out, evaluator, found)
    rows = _rows(evaluator, found)
    _write_report(ctx.out, report, _grid(rows, report), ReportPictures(rows))
    return report


def _trained(lora: LocalArtifact) -> TrainReport:
    try:
        return TrainReport.model_validate(lora.manifest.stats)
    except ValidationError as err:
        msg = f"manifest of {lora.uri} is not that of a trained LoRA; train it again"
        raise ArtifactError(msg) from err


def _entry(profile: Profile, lora: LocalArtifact, name: str) -> BaseEntry:
    """The base the LoRA was trained on, if it is still the same."""
    entry = profile.base(name, "art")
    trained_on = lora.manifest.models.get(f"base:{name}")
    if trained_on is not None and trained_on != entry.resolve_revision():
        msg = f"base {name!r} has changed since the LoRA was trained on it; train it again"
        raise ModelError(msg)
    return entry


def _judge(
    spec: EvaluateSpec,
    trained: TrainReport,
    evaluator: LoRAEvaluator,
    found: Evaluation,
    opening: Sequence[HardGate],
) -> EvaluationReport:
    """Scores and gates → verdict and advice."""
    closed = {gate.name: gate for gate in (*opening, *found.gates)}
    passed = all(gate.passed for gate in closed.values()) and found.overall >= spec.threshold
    scores: dict[str, float | None] = {metric.name: metric.score for metric in found.metrics}
    count = len(evaluator.prompts)
    dropped = {"blocked_prompt": evaluator.blocked} if evaluator.blocked else {}
    return EvaluationReport(
        counts=Counts(seen=count + evaluator.blocked, kept=count, dropped=dropped),
        verdict="pass" if passed else "fail",
        overall=found.overall,
        overall_low=found.overall_low,
        threshold=spec.threshold,
        metrics=found.metrics,
        gates=tuple(closed.values()),
        advice=advise(
            scores,
            closed,
            passed,
            items=() if passed else advise_items(evaluator.data, evaluator.scorer),
            copied=copied_items(found.nearest, [r.sha256 for r in evaluator.data.records]),
            followed=trained.advice,
        ),
        prompts=tuple(prompt.text for prompt in evaluator.prompts),
        trigger=trained.trigger,
        base=trained.base,
        scorer=evaluator.scorer.name,
    )


def _refuse(
    spec: EvaluateSpec,
    ctx: StageContext,
    trained: TrainReport,
    scorer: str,
    opening: Sequence[HardGate],
) -> EvaluationReport:
    """The report on a LoRA that can't even be loaded: nothing measured, and a fail."""
    note = "not measured: the LoRA can't be used"
    closed = {gate.name: gate for gate in opening}
    report = EvaluationReport(
        verdict="fail",
        overall=0.0,
        overall_low=0.0,
        threshold=spec.threshold,
        metrics=tuple(
            Metric.model_validate({
                "name": name,
                "value": 0.0,
                "unit": "none",
                "score": None,
                "n": 0,
                "note": note,
            })
            for name in NAMES
        ),
        gates=tuple(opening),
        advice=advise({}, closed, passed=False, followed=trained.advice),
        prompts=(),
        trigger=trained.trigger,
        base=trained.base,
        scorer=scorer,
    )
    notice = draw_notice(f"{trained.trigger} on {trained.base}", verdict_in_words(report))
    _write_report(ctx.out, report, notice, ReportPictures())
    return report


def _write_pictures(out: Path, evaluator: LoRAEvaluator, found: Evaluation) -> None:
    for side, images in (("base", found.base), ("lora", found.lora)):
        folder = out / "images" / side
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / f"{number:04d}.png")
    write_jsonl(
        out / "pairs.jsonl",
        (
            PairRecord(
                file_name=f"{number:04d}.png",
                prompt=prompt.text,
                seed=prompt.seed,
                nearest=evaluator.data.train_files[nearest.index].name,
                similarity=round(nearest.similarity, 4),
                hash_distance=nearest.distance,
                copied=nearest.copied,
            )
            for number, (prompt, nearest) in enumerate(
                zip(evaluator.prompts, found.nearest, strict=True)
            )
        ),
    )


def _rows(evaluator: LoRAEvaluator, found: Evaluation) -> list[GridRow]:
    """What the grid and the page show, prompt by prompt."""
    return [
        GridRow(
            prompt.text,
            base,
            lora,
            open_image(evaluator.data.train_files[nearest.index]),
            f"seed {prompt.seed}; {nearest_in_words(nearest)}",
        )
        for prompt, base, lora, nearest in zip(
            evaluator.prompts[:MAX_PROMPTS],
            found.base[:MAX_PROMPTS],
            found.lora[:MAX_PROMPTS],
            found.nearest[:MAX_PROMPTS],
            strict=True,
        )
    ]


def _grid(rows: Sequence[GridRow], report: EvaluationReport) -> Image:
    scores = ", ".join(
        f"{metric.name} {'abstains' if metric.score is None else f'{metric.score:.2f}'}"
        for metric in report.metrics
    )
    return draw_grid(
        rows, f"{report.trigger} on {report.base}: {report.verdict} {report.overall:.2f}", scores
    )


def _write_report(
    out: Path,
    report: EvaluationReport,
    grid: Image,
    pictures: ReportPictures,
) -> None:
    grid.save(out / "grid.png", optimize=True)
    (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / "advice.json").write_text(
        report.advice.model_dump_json(indent=2) + "\n", encoding="utf-8"
    )
    (out / "report.html").write_text(render_html(report, pictures), encoding="utf-8")
    log.info("%s", verdict_in_words(report))
    for metric in report.metrics:
        score = "abstains" if metric.score is None else f"{metric.score:.3f}"
        log.info("%s %s, %.3f %s; %s", metric.name, score, metric.value, metric.unit, metric.note)
    for gate in report.gates:
        log.info("gate %s %s: %s", gate.name, "open" if gate.passed else "closed", gate.detail)
