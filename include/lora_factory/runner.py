"""Runs one stage: key, lease, resume, commit. The same for every stage (design, section 2).

A stage whose artifact is there returns it. One that was killed finds its scratch folder
again. What it writes becomes an artifact only when it has returned.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from pydantic import ValidationError

from lora_factory import __version__
from lora_factory.contracts.base import StageSpec, sha256_json
from lora_factory.contracts.manifest import InputEntry, Manifest, StageResult
from lora_factory.contracts.run import RUNNABLE
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact, StageContext, StageModule
from lora_factory.errors import SpecError
from lora_factory.models.profiles import load_profile
from lora_factory.store.artifacts import ArtifactStore, open_store, remove_tree
from lora_factory.store.lease import lease

log = logging.getLogger(__name__)


def load_stage(name: str) -> StageModule:
    """The module of a stage, or of a part of one (``<stage>.<module>``).

    Raises:
        SpecError: there is no such stage.
    """
    if name not in RUNNABLE:
        msg = f"unknown stage {name!r}; choose one of: {', '.join(RUNNABLE)}"
        raise SpecError(msg)
    room, _, module = name.partition(".")
    return cast("StageModule", importlib.import_module(f"lora_factory.{room}.{module or 'stage'}"))


def parse_spec(stage: StageModule, data: dict[str, Any]) -> StageSpec:
    """Validate a spec.

    Raises:
        SpecError: names the first bad field.
    """
    try:
        return stage.SPEC.model_validate(data)
    except ValidationError as err:
        raise SpecError(describe(err, stage.SPEC.__name__)) from err


def describe(err: ValidationError, what: str) -> str:
    """One line for a validation error: field, problem, and how many more there are."""
    errors = err.errors(include_url=False)
    where = ".".join(str(part) for part in errors[0]["loc"]) or "the whole"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{what}: {where}: {errors[0]['msg']}{more}"


def run_stage(
    name: str,
    spec: StageSpec | dict[str, Any],
    settings: Settings,
    *,
    stop: threading.Event | None = None,
) -> StageResult:
    """Run a stage, or find its artifact.

    Args:
        name: stage name.
        spec: its spec, or a dict to validate.
        settings: the deployment's configuration.
        stop: set by whoever wants the stage to stop; it then raises Interrupted.

    Raises:
        FactoryError: whatever the stage or the store raises.
    """
    started = time.monotonic()
    stage = load_stage(name)
    spec = parse_spec(stage, spec) if isinstance(spec, dict) else spec
    store = open_store(settings)
    models = load_profile(spec.profile, settings).revisions(stage.roles(spec))
    inputs = {name: store.fetch(uri) for name, uri in _uris(spec)}
    # Beside the models, what else of the deployment decides this stage's result.
    if (conditions := getattr(stage, "conditions", None)) is not None:
        models |= conditions(inputs, settings)
    key = artifact_key(name, stage.VERSION, spec, inputs, models)
    scratch = settings.scratch.expanduser()
    with lease(scratch / "leases", key):
        reference = store.find(stage.KIND, key)
        reused = reference is not None
        if reference is None:
            work = scratch / "work" / name / key
            context = _context(work, inputs, settings, stop)
            log.info("%s starts, artifact %s/%s", name, stage.KIND, key)
            report = stage.run(spec, context)
            draft = Manifest(
                kind=stage.KIND,
                stage=name,
                stage_version=stage.VERSION,
                key=key,
                attempt=uuid4().hex[:8],
                spec=spec.model_dump(mode="json"),
                inputs=tuple(
                    InputEntry(name=field, manifest_uri=found.uri, sha256=found.sha256)
                    for field, found in inputs.items()
                ),
                models=models,
                counts=report.counts,
                stats=report.model_dump(mode="json"),
                code_version=__version__,
                created_at=datetime.now(UTC),
                seconds=time.monotonic() - started,
            )
            reference = store.commit(context.out, draft)
            remove_tree(work)
        if (finish := getattr(stage, "finish", None)) is not None:
            finish(spec, inputs, settings)
        return _result(store, reference, reused, time.monotonic() - started)


def _uris(spec: StageSpec) -> Iterator[tuple[str, str]]:
    """Name and URI of each input artifact: ``raw``; ``parts.0``, ``parts.1``, … of several."""
    for field in spec.inputs:
        value = getattr(spec, field)
        if isinstance(value, tuple):
            yield from ((f"{field}.{at}", uri) for at, uri in enumerate(value))
        elif value is not None:
            yield field, value


def artifact_key(
    stage: str,
    version: int,
    spec: StageSpec,
    inputs: dict[str, LocalArtifact],
    models: dict[str, str],
) -> str:
    """24 hex digits over everything that decides the artifact's content.

    Inputs enter by their files' hashes (see :func:`content_hash`); ``force`` makes the key
    unique.
    """
    payload = {
        "stage": stage,
        "version": version,
        "spec": spec.model_dump(mode="json", exclude={"force", *spec.inputs}),
        "inputs": {field: content_hash(found.manifest) for field, found in inputs.items()},
        "models": models,
        "force": uuid4().hex if spec.force else None,
    }
    return sha256_json(payload)[:24]


def content_hash(manifest: Manifest) -> str:
    """Hash of what an artifact holds: its key and its files, not when it was made."""
    files = [(entry.path, entry.sha256) for entry in manifest.files]
    return sha256_json([manifest.kind, manifest.key, files])


def _context(
    work: Path,
    inputs: dict[str, LocalArtifact],
    settings: Settings,
    stop: threading.Event | None,
) -> StageContext:
    out = work / "out"
    remove_tree(out)  # a killed attempt's half-written files; what it can go on from is in scratch
    out.mkdir(parents=True)
    (work / "scratch").mkdir(exist_ok=True)
    return StageContext(inputs, out, work / "scratch", settings, stop or threading.Event())


def _result(store: ArtifactStore, reference: str, reused: bool, seconds: float) -> StageResult:
    manifest = store.read_manifest(reference)
    log.info(
        "%s %s: kept %d of %d%s",
        manifest.stage,
        "found again" if reused else "done",
        manifest.counts.kept,
        manifest.counts.seen,
        "".join(f", {reason} {n}" for reason, n in sorted(manifest.counts.dropped.items())),
    )
    return StageResult(
        manifest_uri=reference,
        sha256=reference.rpartition("=")[2],
        counts=manifest.counts,
        seconds=round(seconds, 3),
        reused=reused,
    )
