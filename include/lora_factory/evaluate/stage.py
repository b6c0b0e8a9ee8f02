"""Stage evaluate: lora + dataset → evaluation.

Files: ``report.json`` (EvaluationReport), ``report.html``, ``grid.png``, ``advice.json``
(Advice), ``images/base/*.png`` and ``images/lora/*.png`` (row by row the same prompt and
seed; ``pairs.jsonl`` tells which).

The LoRA's file is chosen among its checkpoints on prompts of their own, and judged on others.

Verdict: a hard gate closed, or the lower end of ``overall``'s 95% interval below the spec's
threshold: ``fail``. Else, where the scorer has no calibration: ``needs_person``. Else ``pass``.

    overall = (∏ counted scores that don't abstain) ^ (1 / their number)

each anchored in [0, 1] (``metrics``, ``calibration``). Calibrated means: on sabotaged LoRAs.
Nothing here is calibrated on people's judgement.

Efficiency times one picture with the adapter fused into the weights, fusing and unfusing
included: what a picture costs a server that fuses what it serves. Adapter layers kept beside
the weights, as this package's serving app keeps them, cost more (1.4–1.7 × on a small UNet on a
CPU); that figure is in the metric's note.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract, Counts
from lora_factory.contracts.evaluation import (
    Calibration,
    EvaluationReport,
    HardGate,
    Metric,
    Verdict,
)
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, ModelError, SpecError
from lora_factory.evaluate import gates
from lora_factory.evaluate.advice import advise
from lora_factory.evaluate.calibration import constants_of, find_calibration, note_of
from lora_factory.evaluate.data import load_style, open_image
from lora_factory.evaluate.evaluator import NAMES, Evaluation, LoRAEvaluator, Rival
from lora_factory.evaluate.grid import MAX_PROMPTS, GridRow, draw_grid, draw_notice
from lora_factory.evaluate.html import (
    ReportPictures,
    nearest_in_words,
    render_html,
    verdict_in_words,
)
from lora_factory.evaluate.items import advise_items, copied_items
from lora_factory.evaluate.pairs import Adapter, Painter
from lora_factory.guard.output import output_guard
from lora_factory.models.judges import AESTHETIC, PREFERENCE, picture_judges
from lora_factory.models.loaders import image_text_scorer, limit_threads
from lora_factory.models.profiles import load_profile

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.data import StyleData
    from lora_factory.models.profiles import BaseEntry, Profile
    from lora_factory.models.roles import ImageTextScorer

log = logging.getLogger(__name__)
KIND: Kind = "evaluation"
VERSION = 2
SPEC = EvaluateSpec
SCORER = "image_text_scorer"
LORA_FILE = "lora.safetensors"
MAX_BYTES = 4 * 2**30
"""Of pictures held at once."""


class PairRecord(Contract):
    """One line of ``pairs.jsonl``: what made a pair, and the training image nearest to it."""

    file_name: str = Field(description="Under images/base and images/lora")
    prompt: str
    seed: int
    nearest: str = Field(description="sha256-named file of the dataset's train folder")
    similarity: float = Field(description="Cosine of the LoRA's picture with it")
    hash_distance: int = Field(ge=0, le=64, description="Bits")
    copied: bool


@dataclass(frozen=True)
class Opened:
    """A LoRA artifact with its base loaded and its files attached."""

    trained: TrainReport
    entry: BaseEntry
    base: DiffusionBase
    adapters: dict[str, Adapter]
    """File → adapter; the LoRA's own file first."""
    notes: tuple[str, ...]


def roles(spec: EvaluateSpec) -> tuple[str, ...]:  # noqa: ARG001  (part of the stage's shape)
    """What sees the pictures, and all bases, since the LoRA's manifest names which it needs."""
    seen_by = (SCORER, "content_filter", f"{AESTHETIC}?", f"{PREFERENCE}?")
    return (*seen_by, "bases", "files:evaluate/calibrations")


def run(spec: EvaluateSpec, ctx: StageContext) -> EvaluationReport:
    """Judge a LoRA.

    Raises:
        ModelError: the LoRA file is damaged, its base is missing or has changed, or a model
            that must see the pictures is missing.
        SpecError: more pictures are asked for than fit into memory.
        DataError: the dataset can't be used, or holds too few images or captions.
        ArtifactError: a LoRA's manifest tells neither base nor trigger.
        Interrupted: asked to stop; the pictures made so far are kept.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    trained = _trained(ctx.inputs["lora"])
    scorer = image_text_scorer(profile)
    gate = gates.finite_weights(ctx.inputs["lora"].path / LORA_FILE)
    if not gate.passed:
        return _refuse(spec, ctx, trained, scorer.name, [gate])
    opened = _open(profile, ctx.inputs["lora"], trained, spec)
    if isinstance(opened, HardGate):
        return _refuse(spec, ctx, trained, scorer.name, [gate, opened])
    calibration = find_calibration(
        profile.role(SCORER).resolve_revision(), opened.entry.resolve_revision()
    )
    evaluator = LoRAEvaluator(
        Painter(opened.base, opened.entry.resolve_revision(), spec, ctx),
        _data(profile, ctx, scorer),
        scorer,
        constants_of(calibration),
        output_guard(profile, ctx.settings),
        picture_judges(profile),
    )
    chosen, candidates = evaluator.choose(opened.adapters)
    evaluator.draw(opened.adapters[chosen])
    rival, closed = _rival(profile, ctx, evaluator.painter, opened.entry)
    found = evaluator.run_evaluation(rival)
    found = replace(found, gates=(gate, gates.keys_used(""), *found.gates, *closed))
    report = _judge(opened, evaluator, found, calibration)
    report = report.model_copy(update={"checkpoint": chosen, "candidates": candidates})
    _write_pictures(ctx.out, evaluator)
    rows = _rows(evaluator)
    _write_report(ctx.out, report, _grid(rows, report), ReportPictures(rows, _drift(evaluator)))
    return report


def _open(
    profile: Profile, lora: LocalArtifact, trained: TrainReport, spec: EvaluateSpec
) -> Opened | HardGate:
    """Load the base and attach the LoRA's file, and its earlier ones where one is chosen.

    The closed gate ``keys_used`` where the LoRA's file doesn't fit.
    """
    entry = _entry(profile, lora, trained.base)
    _bounded(spec, entry)
    base = load_base(entry)
    try:
        adapters = {LORA_FILE: Adapter.load(base, "candidate_0", lora.path / LORA_FILE)}
    except ModelError as err:
        return gates.keys_used(str(err))
    notes = []
    for number, file in enumerate(trained.checkpoints if spec.choosing else (), start=1):
        try:
            adapters[file] = Adapter.load(base, f"candidate_{number}", lora.path / file)
        except ModelError as err:
            notes.append(f"{file} was no candidate: {err}")
    return Opened(trained, entry, base, adapters, tuple(notes))


def _bounded(spec: EvaluateSpec, entry: BaseEntry) -> None:
    """Refuse to start on more pictures than can be held."""
    pictures = 2 * spec.prompts * spec.seeds + 2 * spec.choosing + 3 * spec.drift
    size = pictures * 3 * entry.resolution**2
    if size > MAX_BYTES:
        msg = (
            f"{pictures} pictures of {entry.resolution} px need {size / 2**30:.0f} GiB of memory, "
            f"{MAX_BYTES / 2**30:.0f} are allowed: ask for fewer prompts or seeds"
        )
        raise SpecError(msg)


def _data(profile: Profile, ctx: StageContext, scorer: ImageTextScorer) -> StyleData:
    dataset = ctx.inputs["dataset"]
    same = dataset.manifest.models.get(SCORER) == profile.role(SCORER).resolve_revision()
    return load_style(dataset.path, scorer, stored=same, check_stop=ctx.check_stop)


def _rival(
    profile: Profile, ctx: StageContext, painter: Painter, entry: BaseEntry
) -> tuple[Rival | None, tuple[HardGate, ...]]:
    """The deployed LoRA to beat, or the gate that says why it can't be drawn; neither: none."""
    if "incumbent" not in ctx.inputs:
        return None, ()
    lora, checkpoint = ctx.inputs["incumbent"], painter.spec.incumbent_checkpoint
    trained = _trained(lora)
    file = lora.path / checkpoint
    if not file.is_file():
        msg = f"deployed LoRA {lora.uri} has no file {checkpoint}; correct incumbent_checkpoint"
        raise ArtifactError(msg)
    try:
        its = _entry(profile, lora, trained.base)
        if its.name != entry.name:
            painter = Painter(load_base(its), its.resolve_revision(), painter.spec, ctx)
        adapter = Adapter.load(painter.base, "incumbent", file)
    except (ModelError, SpecError) as err:
        why = f"the deployed LoRA can't be drawn any more ({err}): deploy by hand if it must go"
        return None, (gates.no_comparison(why),)
    return Rival(painter, adapter, trained.trigger, lora.uri, checkpoint), ()


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
    opened: Opened, evaluator: LoRAEvaluator, found: Evaluation, calibration: Calibration | None
) -> EvaluationReport:
    """Scores and gates → verdict and advice."""
    spec, splits, data = evaluator.spec, evaluator.splits, evaluator.data
    closed = {gate.name: gate for gate in found.gates}
    verdict = verdict_of(found, spec.threshold, calibration)
    scores: dict[str, float | None] = {m.name: m.score for m in found.metrics if m.counted}
    dropped = {"blocked_prompt": splits.blocked, "prompt_not_made": splits.lacking}
    dropped = {reason: count for reason, count in dropped.items() if count}
    count = (len(splits.report) // spec.seeds) + len(splits.choose)
    return EvaluationReport(
        counts=Counts(seen=count + sum(dropped.values()), kept=count, dropped=dropped),
        verdict=verdict,
        overall=found.overall,
        overall_low=found.overall_low,
        threshold=spec.threshold,
        metrics=found.metrics,
        gates=found.gates,
        advice=advise(
            scores,
            closed,
            verdict != "fail",
            items=advise_items(data, evaluator.scorer) if verdict == "fail" else (),
            copied=copied_items(evaluator.nearest, [r.sha256 for r in data.records]),
            followed=opened.trained.advice,
        ),
        prompts=tuple(dict.fromkeys(prompt.text for prompt in splits.report)),
        trigger=opened.trained.trigger,
        base=opened.trained.base,
        scorer=evaluator.scorer.name,
        choosing_prompts=tuple(prompt.text for prompt in splits.choose),
        drift_prompts=tuple(prompt.text for prompt in splits.drift),
        seeds=spec.seeds,
        calibration=note_of(calibration),
        incumbent=found.comparison,
        notes=(*_notes(calibration), *opened.notes, *([data.note] if data.note else [])),
    )


def verdict_of(found: Evaluation, threshold: float, calibration: Calibration | None) -> Verdict:
    """The rule at the top of this module."""
    if not all(gate.passed for gate in found.gates) or found.overall_low < threshold:
        return "fail"
    return "needs_person" if calibration is None else "pass"


def _notes(calibration: Calibration | None) -> tuple[str, ...]:
    people = "not calibrated on people's judgement"
    if calibration is None:
        return (
            f"the scores' constants are defaults, calibrated on nothing with this scorer and "
            f"base, and {people}",
        )
    return (
        f"the scores' constants are fitted on {', '.join(calibration.fitted_on)}; on other styles "
        f"({', '.join(calibration.reported_on)}) the overall score tells {calibration.good} sound "
        f"from {calibration.sabotaged} sabotaged LoRAs with AUC {calibration.auc:.3f}; {people}",
        *([calibration.note] if calibration.note else []),
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


def _write_pictures(out: Path, evaluator: LoRAEvaluator) -> None:
    for side, images in (("base", evaluator.base), ("lora", evaluator.lora)):
        folder = out / "images" / side
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / f"{number:04d}.png")
    pairs = zip(evaluator.prompts, evaluator.nearest, strict=True)
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
            for number, (prompt, nearest) in enumerate(pairs)
        ),
    )


def _rows(evaluator: LoRAEvaluator) -> list[GridRow]:
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
            evaluator.base[:MAX_PROMPTS],
            evaluator.lora[:MAX_PROMPTS],
            evaluator.nearest[:MAX_PROMPTS],
            strict=True,
        )
    ]


def _drift(evaluator: LoRAEvaluator) -> list[GridRow]:
    return [
        GridRow(prompt.text, base, lora, note=f"seed {prompt.seed}")
        for prompt, base, lora in zip(
            evaluator.splits.drift, evaluator.drift_base, evaluator.drift_lora, strict=True
        )
    ]


def _grid(rows: Sequence[GridRow], report: EvaluationReport) -> Image:
    scores = ", ".join(
        f"{metric.name} {'abstains' if metric.score is None else f'{metric.score:.2f}'}"
        for metric in report.metrics
        if metric.name in NAMES
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
        score = "no score" if metric.score is None else f"{metric.score:.3f}"
        log.info("%s %s, %.3f %s; %s", metric.name, score, metric.value, metric.unit, metric.note)
    for gate in report.gates:
        log.info("gate %s %s: %s", gate.name, "open" if gate.passed else "closed", gate.detail)
