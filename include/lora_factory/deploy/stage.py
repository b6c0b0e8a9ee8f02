"""lora + evaluation → release: publish, try, promote; or undo and say why."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable

from pydantic import ValidationError

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import DeployReport, EvaluationReport
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import DeploySpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainReport
from lora_factory.deploy.clouds import cloud_target
from lora_factory.deploy.hub import HubTarget
from lora_factory.deploy.local import LocalTarget
from lora_factory.deploy.target import Plan, Release, Target
from lora_factory.diffusion.lora_file import write_kohya
from lora_factory.errors import FactoryError, ModelError, ReleaseError, SpecError
from lora_factory.guard.content import check_prompt
from lora_factory.guard.provenance.keys import configured_key
from lora_factory.guard.provenance.release import attach, sign_release
from lora_factory.store.artifacts import open_store
from lora_factory.store.catalog import Catalog
from lora_factory.store.takedown import taken_down_with

log = logging.getLogger(__name__)
KIND: Kind = "release"
VERSION = 4
SPEC = DeploySpec
LORA_FILE = "lora.safetensors"
KOHYA_FILE = "lora.kohya.safetensors"
VERSION_DIGITS = 12
MAX_PROMPT = 500  # characters; contracts.serving.Prompt


def roles(spec: DeploySpec) -> tuple[str, ...]:  # noqa: ARG001 - every stage has this signature
    """No model: the target draws, not this stage."""
    return ()


def run(spec: DeploySpec, ctx: StageContext) -> DeployReport:
    """Deploy a LoRA that passed its evaluation.

    Files: ``lora.safetensors``, the same in kohya's layout (``lora.kohya.safetensors``),
    ``release.json`` (the registry's entry and this report), and what :func:`attach` writes;
    ``model.sig`` over all of them where the deployment has a key.

    Raises:
        SpecError: the evaluation is of another LoRA, an input is of another kind, or the LoRA was
            trained with an item that was taken down.
        ReleaseError: it did not pass (or needs a person's approval and has none), the target
            refused it, or its smoke test failed; users get what they got before.
        ServiceUnavailable, ConfigurationError: target or store can't be reached, or the signing
            key can't be used; nothing changed for users.
        ArtifactError: the dataset's records are damaged; nothing changed for users.
    """
    _refuse_taken_down(ctx.inputs["lora"], ctx.settings)
    release = checked_release(spec, ctx.inputs["lora"], ctx.inputs["evaluation"])
    key, store = configured_key(ctx.settings), open_store(ctx.settings)
    attached = attach(ctx.out, release.model, ctx.inputs["lora"], ctx.inputs["evaluation"], store)
    shutil.copyfile(release.file, ctx.out / LORA_FILE)
    try:
        write_kohya(release.file, ctx.out / KOHYA_FILE)
    except ModelError as err:
        msg = f"{spec.name} {release.model.version} was not deployed: {err}"
        raise ReleaseError(msg) from err
    release = release.model_copy(update={"folder": ctx.out})
    target = open_target(spec.target, ctx.settings, ctx.check_stop)
    more = {
        "approved_by": spec.approved_by,
        "signed": key is not None,
        "key": key.fingerprint if key else "",
        "images": attached.images,
        "lineage_complete": attached.lineage_complete,
    }
    report = deploy(release, target).model_copy(update=more)
    entry = {
        "model": release.model.model_dump(mode="json"),
        "report": report.model_dump(mode="json"),
    }
    (ctx.out / "release.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")
    sign_release(ctx.out, key)
    return report


def deploy(release: Release, target: Target) -> DeployReport:
    """plan → apply → smoke → promote, and rollback where one of them fails for good."""
    model = release.model
    plan = target.plan(release)
    log.info("%s %s → %s; live now: %s", model.name, model.version, target.name, plan.live)
    try:
        if plan.live != model.version:
            target.apply(release)
        smoke = target.smoke(release)
        log.info("smoke test passed: %s", smoke)
        promotion = target.promote(release)
    except ReleaseError as err:
        _undo(release, target, plan)
        msg = f"{model.name} {model.version} was not deployed: {err}; live: {plan.live or 'none'}"
        raise ReleaseError(msg) from err
    return DeployReport(
        counts=Counts(seen=1, kept=1),
        name=model.name,
        version=model.version,
        target=target.name,
        endpoint=promotion.endpoint,
        previous=promotion.previous,
        smoke_seconds=smoke.seconds,
        base=model.base,
        trigger=model.trigger,
    )


def _undo(release: Release, target: Target, plan: Plan) -> None:
    """Roll back; where that fails too, the first error is the one to tell."""
    try:
        target.rollback(release, plan)
    except FactoryError as err:
        log.warning("rollback: %s", err)


def open_target(
    name: str, settings: Settings, check_stop: Callable[[], None] = lambda: None
) -> Target:
    """A target by name; where it is and who may use it, the deployment's configuration says.

    Raises:
        ConfigurationError: the deployment isn't set up for it.
    """
    if name == "local":
        return LocalTarget(settings, check_stop=check_stop)
    if name == "hub":
        return HubTarget(settings, check_stop=check_stop)
    return cloud_target(name, settings, check_stop)


def _refuse_taken_down(lora: LocalArtifact, settings: Settings) -> None:
    """Takedowns are kept in the catalog; without one there are none."""
    dsn = settings.catalog.get_secret_value()
    if not dsn:
        return
    item, where = taken_down_with(open_store(settings), Catalog(dsn), lora.manifest)
    if item:
        msg = (
            f"{item} was taken down and is in {where}, which LoRA {lora.uri} comes from; "
            "run the factory again, it leaves the item out"
        )
        raise SpecError(msg)


def checked_release(spec: DeploySpec, lora: LocalArtifact, evaluation: LocalArtifact) -> Release:
    """Refuse what must not go out, and gather what the registry keeps."""
    if (lora.manifest.kind, evaluation.manifest.kind) != ("lora", "evaluation"):
        kinds = f"{lora.manifest.kind} and {evaluation.manifest.kind}"
        msg = f"deploy needs a lora and an evaluation, not {kinds}"
        raise SpecError(msg)
    judged = {entry.sha256 for entry in evaluation.manifest.inputs if entry.name == "lora"}
    if judged != {lora.sha256}:
        msg = f"evaluation {evaluation.uri} is not of LoRA {lora.uri}; evaluate this one"
        raise SpecError(msg)
    try:
        trained = TrainReport.model_validate(lora.manifest.stats)
        verdict = EvaluationReport.model_validate(evaluation.manifest.stats)
    except ValidationError as err:
        msg = f"the inputs' reports can't be read: {str(err).splitlines()[0]}; make them anew"
        raise SpecError(msg) from err
    refuse(verdict, spec.approved_by)
    datasets = [e.manifest_uri for e in lora.manifest.inputs if e.name == "dataset"]
    model = NewModel(
        name=spec.name,
        version=lora.sha256[:VERSION_DIGITS],
        sha256=_file_hash(lora, verdict.checkpoint),
        base=trained.base,
        trigger=trained.trigger,
        overall=verdict.overall,
        lora=lora.uri,
        evaluation=evaluation.uri,
        dataset=datasets[0] if datasets else None,
        conf=spec.conf,
    )
    prompt = _prompt(trained.trigger, verdict.prompts)
    return Release(
        model=model, file=lora.path / verdict.checkpoint, profile=spec.profile, prompt=prompt
    )


def refuse(report: EvaluationReport, approved_by: str | None) -> None:
    """Let through a pass, and with a person's name what only a person may decide on.

    Raises:
        ReleaseError: anything else, whoever approved of it.
    """
    failed = [gate.name for gate in report.gates if not gate.passed]
    if failed or report.verdict not in {"pass", "needs_person"}:
        why = f"gates {', '.join(failed)}" if failed else f"overall {report.overall:.3f}"
        msg = f"the LoRA did not pass its evaluation ({why}); only a pass is deployed"
        raise ReleaseError(msg)
    if report.verdict == "needs_person":
        if approved_by is None:
            msg = (
                "the evaluation needs a person: no calibrated scorer can pass this LoRA; look at "
                "its report and deploy it with approved_by, or calibrate the scorer"
            )
            raise ReleaseError(msg)
        log.info("no calibrated scorer passed this LoRA; approved by %s", approved_by)


def _prompt(trigger: str, prompts: tuple[str, ...]) -> str:
    """The first of the evaluation's prompts that the serving app will take."""
    for prompt in prompts:
        usable = len(prompt) <= MAX_PROMPT and prompt.isprintable()
        if trigger in prompt and usable and check_prompt(prompt).allowed:
            return prompt
    return trigger


def _file_hash(lora: LocalArtifact, checkpoint: str) -> str:
    """Of the file that was judged, as the artifact's manifest has it."""
    for entry in lora.manifest.files:
        if entry.path == checkpoint:
            return entry.sha256
    msg = f"LoRA {lora.uri} has no {checkpoint}, which was evaluated; evaluate it again"
    raise SpecError(msg)
