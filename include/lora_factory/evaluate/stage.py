"""Stage evaluate: lora + dataset → evaluation.

Files: ``report.json`` (EvaluationReport), ``report.html``, ``grid.png``, ``advice.json``
(Advice), ``ethics.json`` (EthicsReport), ``xyz.png``, ``README.md`` (model card) with its
``samples/*.png``,
``images/base/*.png`` and ``images/lora/*.png`` (row by row the same prompt and seed;
``pairs.jsonl`` tells which), ``images/attack/*.png`` (training captions word for word;
``attack.jsonl``). A LoRA that can't be loaded has no pictures and no card.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import (
    Advice,
    Calibration,
    Candidate,
    EvaluationReport,
    HardGate,
    Metric,
    RecommendedSettings,
    Verdict,
)
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.trained import base_of, trained_report
from lora_factory.errors import ArtifactError, ModelError, SpecError
from lora_factory.evaluate import gates
from lora_factory.evaluate.advice import advise, best_share
from lora_factory.evaluate.audit import audit, audit_bias
from lora_factory.evaluate.calibration import constants_of, find_calibration, note_of
from lora_factory.evaluate.card import (
    WIDGETS,
    CardSources,
    data_statistics,
    generate_lora_card,
)
from lora_factory.evaluate.copyright import Attack, attack
from lora_factory.evaluate.data import load_style
from lora_factory.evaluate.evaluator import NAMES, Evaluation, LoRAEvaluator, Rival
from lora_factory.evaluate.grid import draw_notice
from lora_factory.evaluate.html import ReportPictures, verdict_in_words
from lora_factory.evaluate.items import advise_items, copied_items
from lora_factory.evaluate.pairs import Adapter, Painter
from lora_factory.evaluate.settings import recommend_settings
from lora_factory.evaluate.verdict import BLIND, calibration_notes, verdict_of, zero_note
from lora_factory.evaluate.write import (
    drift_of,
    grid_of,
    rows_of,
    write_pictures,
    write_report,
)
from lora_factory.evaluate.xyz import draw_xyz, label_of
from lora_factory.guard.ethics import Subject
from lora_factory.guard.output import output_guard
from lora_factory.guard.protected import open_index, protected_conditions
from lora_factory.guard.training_data import read_lineage
from lora_factory.models.judges import AESTHETIC, PREFERENCE, picture_judges
from lora_factory.models.loaders import image_text_scorer, limit_threads
from lora_factory.models.profiles import load_profile

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.ethics import BiasAudit
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.contracts.training import TrainReport
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.data import StyleData
    from lora_factory.guard.protected import ProtectedIndex
    from lora_factory.models.profiles import BaseEntry, Profile
    from lora_factory.models.roles import ImageTextScorer

log = logging.getLogger(__name__)
KIND: Kind = "evaluation"
VERSION = 4
SPEC = EvaluateSpec
SCORER = "image_text_scorer"
LORA_FILE = "lora.safetensors"
MAX_BYTES = 4 * 2**30
"""Of pictures held at once."""


@dataclass(frozen=True)
class Opened:
    """A LoRA artifact with its base loaded and its files attached."""

    trained: TrainReport
    entry: BaseEntry
    base: DiffusionBase
    adapters: dict[str, Adapter]
    """File → adapter; the LoRA's own file first."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Looked:
    """What was drawn and measured with the chosen file."""

    chosen: str
    candidates: tuple[Candidate, ...]
    bias: BiasAudit
    repeats: Attack
    settings: RecommendedSettings | None
    xyz: Image | None
    found: Evaluation


def roles(spec: EvaluateSpec) -> tuple[str, ...]:  # noqa: ARG001  (part of the stage's shape)
    """What sees the pictures, and all bases, since the LoRA's manifest names which it needs."""
    seen_by = (SCORER, "content_filter", f"{AESTHETIC}?", f"{PREFERENCE}?")
    return (*seen_by, "bases", "files:evaluate/calibrations")


def conditions(
    inputs: Mapping[str, LocalArtifact],  # noqa: ARG001  (part of the stage's shape)
    settings: Settings,
) -> dict[str, str]:
    """What of the deployment decides the result, beside the spec: it enters the artifact key."""
    return protected_conditions(settings)


def run(spec: EvaluateSpec, ctx: StageContext) -> EvaluationReport:
    """Judge a LoRA.

    Raises:
        ModelError: the LoRA file is damaged, its base is missing or has changed, or a model
            that must see the pictures is missing.
        SpecError: more pictures are asked for than fit into memory.
        DataError: the dataset can't be used, or holds too few images or captions.
        ArtifactError: a LoRA's manifest tells neither base nor trigger.
        ConfigurationError: the index of protected works can't be used.
        Interrupted: asked to stop; the pictures made so far are kept.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    trained = trained_report(ctx.inputs["lora"])
    scorer = image_text_scorer(profile)
    gate = gates.finite_weights(ctx.inputs["lora"].path / LORA_FILE)
    if not gate.passed:
        return _refuse(spec, ctx, trained, scorer.name, [gate])
    opened = _open(profile, ctx, trained, spec)
    if isinstance(opened, HardGate):
        return _refuse(spec, ctx, trained, scorer.name, [gate, opened])
    protected = open_index(profile, ctx.settings)
    calibration = find_calibration(
        profile.role(SCORER).resolve_revision(), opened.entry.resolve_revision()
    )
    evaluator = LoRAEvaluator(
        Painter(opened.base, opened.entry.resolve_revision(), spec, ctx),
        _data(profile, ctx, scorer),
        scorer,
        constants_of(calibration),
        output_guard(profile, ctx.settings, protected=False),
        picture_judges(profile),
    )
    looked = _look(evaluator, opened, profile, protected)
    opening = (gate, gates.keys_used(""))
    found = replace(looked.found, gates=(*opening, *looked.found.gates))
    report = _judge(opened, replace(looked, found=found), evaluator, calibration)
    ethics = audit(_subject(ctx, opened, report), looked.bias, looked.repeats.checks)
    report = report.model_copy(update={"ethics": ethics})
    _write(ctx, report, opened, evaluator, looked)
    return report


def _look(
    evaluator: LoRAEvaluator,
    opened: Opened,
    profile: Profile,
    protected: ProtectedIndex | None,
) -> Looked:
    """Choose a file, draw with it, and measure all there is to measure.

    Timing comes last: it fuses the adapter into the base (see ``run_evaluation``).
    """
    painter, ctx = evaluator.painter, evaluator.painter.ctx
    chosen, candidates = evaluator.choose(opened.adapters)
    adapter = opened.adapters[chosen]
    evaluator.draw(adapter)
    bias = audit_bias(painter, adapter, evaluator.scorer, evaluator.data.info)
    repeats = attack(evaluator, protected, ctx.settings.protected_policy)
    settings, xyz = _try_out(evaluator, opened, chosen)
    rival, closed = _rival(profile, ctx, painter, opened.entry)
    found = evaluator.run_evaluation(rival)
    found = replace(found, gates=(*found.gates, *repeats.gates(), *closed))
    return Looked(chosen, candidates, bias, repeats, settings, xyz, found)


def _write(
    ctx: StageContext,
    report: EvaluationReport,
    opened: Opened,
    evaluator: LoRAEvaluator,
    looked: Looked,
) -> None:
    """Every file of the artifact."""
    write_pictures(ctx.out, evaluator)
    looked.repeats.write(ctx.out, evaluator.guard)
    pictures = ReportPictures(rows_of(evaluator), drift_of(evaluator), looked.xyz)
    write_report(ctx.out, report, grid_of(pictures.rows, report), pictures)
    _write_card(ctx, report, opened, evaluator)


def _open(
    profile: Profile, ctx: StageContext, trained: TrainReport, spec: EvaluateSpec
) -> Opened | HardGate:
    """Load the base and attach the LoRA's file, and its earlier ones where one is chosen.

    The closed gate ``keys_used`` where the LoRA's file doesn't fit. A build has no others.
    """
    lora = ctx.inputs["lora"]
    entry = base_of(profile, lora, trained.base)
    _bounded(spec, entry)
    base = load_base(entry)
    if "build" in ctx.inputs:
        adapter = Adapter.load_build(base, "candidate_0", _build_of(lora, ctx.inputs["build"]))
        return Opened(trained, entry, base, {LORA_FILE: adapter}, ())
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


def _build_of(lora: LocalArtifact, build: LocalArtifact) -> LocalArtifact:
    made_from = {entry.sha256 for entry in build.manifest.inputs if entry.name == "lora"}
    if build.manifest.kind != "build" or made_from != {lora.sha256}:
        msg = f"{build.uri} is no build of LoRA {lora.uri}; optimise this one"
        raise SpecError(msg)
    return build


def _bounded(spec: EvaluateSpec, entry: BaseEntry) -> None:
    """Refuse to start on more pictures than can be held."""
    pictures = 2 * spec.prompts * spec.seeds + 2 * spec.choosing + 3 * spec.drift + spec.attacks
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
    trained = trained_report(lora)
    file = lora.path / checkpoint
    if not file.is_file():
        msg = f"deployed LoRA {lora.uri} has no file {checkpoint}; correct incumbent_checkpoint"
        raise ArtifactError(msg)
    try:
        its = base_of(profile, lora, trained.base)
        if its.name != entry.name:
            painter = Painter(load_base(its), its.resolve_revision(), painter.spec, ctx)
        adapter = Adapter.load(painter.base, "incumbent", file)
    except (ModelError, SpecError) as err:
        why = f"the deployed LoRA can't be drawn any more ({err}): deploy by hand if it must go"
        return None, (gates.no_comparison(why),)
    return Rival(painter, adapter, trained.trigger, lora.uri, checkpoint), ()


def _try_out(
    evaluator: LoRAEvaluator, opened: Opened, chosen: str
) -> tuple[RecommendedSettings | None, Image | None]:
    """Strength × steps, and the picture of checkpoint × strength × seed, where asked for."""
    painter, prompts, spec = evaluator.painter, evaluator.prompts, evaluator.spec
    settings, xyz = None, None
    if opened.adapters[chosen].built:  # it has one strength
        return settings, xyz
    if spec.settings_prompts:
        settings = recommend_settings(
            painter,
            opened.adapters[chosen],
            prompts,
            evaluator.pairs,
            evaluator.scorer,
            constants=evaluator.constants,
            readable=not evaluator.blind(),
        )
    if spec.xyz_pictures:
        last, *earlier = opened.adapters
        labels = {label_of(file): opened.adapters[file] for file in (*earlier, last)}
        # With the steps that people are told to use: half the cost where half are enough.
        steps = settings.steps if settings else None
        xyz = draw_xyz(painter, labels, prompts, chosen=label_of(chosen), steps=steps)
    return settings, xyz


def _judge(
    opened: Opened, looked: Looked, evaluator: LoRAEvaluator, calibration: Calibration | None
) -> EvaluationReport:
    """Scores and gates → verdict and advice; all of the report but the ethics part."""
    spec, splits, found = evaluator.spec, evaluator.splits, looked.found
    verdict = verdict_of(found, spec.threshold, calibration)
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
        advice=_advice(opened, looked, evaluator, verdict),
        prompts=tuple(dict.fromkeys(prompt.text for prompt in splits.report)),
        trigger=opened.trained.trigger,
        base=opened.trained.base,
        scorer=evaluator.scorer.name,
        checkpoint=looked.chosen,
        candidates=looked.candidates,
        choosing_prompts=tuple(prompt.text for prompt in splits.choose),
        drift_prompts=tuple(prompt.text for prompt in splits.drift),
        seeds=spec.seeds,
        calibration=note_of(calibration),
        incumbent=found.comparison,
        notes=_notes(found, evaluator, opened, calibration),
        settings=looked.settings,
        data=data_statistics(evaluator.painter.ctx.inputs["dataset"].path),
    )


def _advice(opened: Opened, looked: Looked, evaluator: LoRAEvaluator, verdict: Verdict) -> Advice:
    """What the next attempt should change."""
    followed, data = opened.trained.advice, evaluator.data
    items = advise_items(data, evaluator.scorer) if verdict == "fail" else ()
    # The theme that stands in for a caption taken away says nothing of the picture either.
    silenced = {one.sha256 for one in followed.items if one.do == "recaption" and not one.text}
    return advise(
        {metric.name: metric.score for metric in looked.found.metrics if metric.counted},
        {gate.name: gate for gate in looked.found.gates},
        verdict != "fail",
        items=[one for one in items if one.sha256 not in silenced or one.reason == "off_style"],
        copied=copied_items(evaluator.nearest, [record.sha256 for record in data.records]),
        best_share=best_share(looked.chosen, opened.trained),
        followed=followed,
    )


def _subject(ctx: StageContext, opened: Opened, report: EvaluationReport) -> Subject:
    """What the ethics report is about."""
    note, dataset = report.calibration, ctx.inputs["dataset"]
    return Subject(
        lora=ctx.inputs["lora"],
        dataset=dataset,
        lineage=read_lineage(dataset, ctx.settings),
        base=opened.entry,
        scorer=report.scorer,
        prompts=len(report.prompts),
        calibration=""
        if note is None
        else f"on sabotaged adapters of {len(note.reported_on)} styles, AUC {note.auc:.3f}",
    )


def _notes(
    found: Evaluation,
    evaluator: LoRAEvaluator,
    opened: Opened,
    calibration: Calibration | None,
) -> tuple[str, ...]:
    """What a reader must know of the figures."""
    counted = {one.name: one.score for one in found.metrics if one.counted}
    said = [
        *calibration_notes(calibration),
        zero_note({name: score for name, score in counted.items() if score is not None}),
        BLIND if counted.get("alignment") is None else "",
        *opened.notes,
        evaluator.data.note,
    ]
    return tuple(note for note in said if note)


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
    write_report(ctx.out, report, notice, ReportPictures())
    return report


def _write_card(
    ctx: StageContext, report: EvaluationReport, opened: Opened, evaluator: LoRAEvaluator
) -> None:
    """``README.md`` and the pictures it shows, of one seed each, in ``samples``."""
    folder = ctx.out / "samples"
    folder.mkdir()
    samples = []
    for row in range(0, len(evaluator.prompts), report.seeds)[:WIDGETS]:
        evaluator.lora[row].save(folder / f"{row:04d}.png")
        samples.append((evaluator.prompts[row].text, f"samples/{row:04d}.png"))
    sources = CardSources(
        report=report,
        trained=opened.trained,
        lora=ctx.inputs["lora"],
        dataset=ctx.inputs["dataset"],
        base=opened.entry,
        samples=samples,
    )
    (ctx.out / "README.md").write_text(generate_lora_card(sources), encoding="utf-8")
