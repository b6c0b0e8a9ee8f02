"""Plays ``python -m lora_factory <stage>``: checks the spec, commits an artifact, reports.

Everything but the work is real: spec models, store, manifests, report file, exit status.
An evaluation passes once the LoRA's plan has LORA_FACTORY_FAKE_PASS_EPOCHS epochs; then
LORA_FACTORY_FAKE_VERDICT (default pass) is its verdict. Against a deployed model it fails for
as long as LORA_FACTORY_FAKE_BETTER is not set. Deploying is the real stage's check, no more.
LORA_FACTORY_FAKE_ERROR="<stage>:<error class>" makes a stage fail;
with LORA_FACTORY_FAKE_ONCE=<file> only until that file exists. LORA_FACTORY_FAKE_KEPT is how many
items an artifact claims to hold (default 2).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from lora_factory import errors
from lora_factory.contracts import specs
from lora_factory.contracts.base import Counts, StageSpec, sha256_json
from lora_factory.contracts.evaluation import Advice, DeployReport, EvaluationReport, HardGate
from lora_factory.contracts.manifest import InputEntry, Manifest, StageResult
from lora_factory.contracts.optimise import OptimiseReport
from lora_factory.contracts.settings import Settings
from lora_factory.runner import _uris
from lora_factory.store.artifacts import ArtifactStore, open_store

KINDS = {
    "crawl.plan": "crawlplan",
    "crawl.work": "crawlpart",
    "crawl": "raw",
    "sanitize.shard": "cleanpart",
    "sanitize": "clean",
    "label": "dataset",
    "tune": "plan",
    "train": "lora",
    "optimise": "build",
    "evaluate": "evaluation",
    "deploy": "release",
}


def main() -> int:
    args = sys.argv[sys.argv.index("lora_factory") + 1 :]
    stage = args[0]
    spec_file, report = Path(args[args.index("--spec") + 1]), Path(args[args.index("--report") + 1])
    spec_type: type[StageSpec] = getattr(specs, f"{stage.rpartition('.')[2].title()}Spec")
    spec = spec_type.model_validate(json.loads(spec_file.read_text()))
    sys.stderr.write(f"INFO lora_factory.{stage}: {spec.model_dump_json()}\n")
    failing, _, name = os.environ.get("LORA_FACTORY_FAKE_ERROR", "").partition(":")
    if stage == failing and not _happened():
        kind = getattr(errors, name)
        error = {"type": name, "message": f"{stage} was told to fail", "transient": kind.transient}
        report.write_text(json.dumps({"error": error}))
        return 75 if kind.transient else 1
    report.write_text(commit(stage, spec).model_dump_json())
    return 0


def _happened() -> bool:
    marker = os.environ.get("LORA_FACTORY_FAKE_ONCE")
    if not marker:
        return False
    before = Path(marker).exists()
    Path(marker).touch()
    return before


def commit(stage: str, spec: StageSpec) -> StageResult:
    store = open_store(Settings.from_environment())
    inputs = dict(_uris(spec))
    entries = tuple(
        InputEntry(name=name, manifest_uri=artifact.uri, sha256=artifact.sha256)
        for name, uri in inputs.items()
        for artifact in [store.fetch(uri)]
    )
    values = spec.model_dump(mode="json")
    kept = int(os.environ.get("LORA_FACTORY_FAKE_KEPT", "2"))
    draft = Manifest(
        kind=KINDS[stage],
        stage=stage,
        stage_version=1,
        key=sha256_json([stage, values])[:24],
        attempt=uuid4().hex[:8],
        spec=values,
        inputs=entries,
        counts=Counts(seen=kept + 1, kept=kept, dropped={"told_to": 1}),
        stats=_stats(stage, spec, store),
        code_version="0",
        created_at=datetime.now(UTC),
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file.txt").write_text(stage)
        uri = store.commit(Path(folder), draft)
    return StageResult(manifest_uri=uri, sha256=uri.rpartition("=")[2], counts=draft.counts)


def _stats(stage: str, spec: StageSpec, store: ArtifactStore) -> dict[str, object]:
    if isinstance(spec, specs.EvaluateSpec):
        lora = store.read_manifest(spec.lora)
        plan = next(entry for entry in lora.inputs if entry.name == "plan")
        epochs = store.read_manifest(plan.manifest_uri).spec["epochs"]
        passed = epochs >= int(os.environ["LORA_FACTORY_FAKE_PASS_EPOCHS"])
        beaten = spec.incumbent is None or "LORA_FACTORY_FAKE_BETTER" in os.environ
        verdict = os.environ.get("LORA_FACTORY_FAKE_VERDICT", "pass")
        return EvaluationReport(
            verdict=verdict if passed and beaten else "fail",
            overall=0.9 if passed else 0.5,
            overall_low=0.4,
            threshold=spec.threshold,
            metrics=(),
            gates=(HardGate(name="beats_incumbent", passed=beaten, detail=f"{spec.incumbent}"),),
            advice=Advice(),
            prompts=(),
            trigger="t",
            base="b",
            scorer="s",
            checkpoint="checkpoints/step-000080.safetensors",
        ).model_dump(mode="json")
    if isinstance(spec, specs.OptimiseSpec):
        return OptimiseReport(
            step=spec.step,
            form="weights",
            bytes_before=100,
            bytes_after=100,
            rank_before=4,
            rank_after=0,
            seconds_before=1.0,
            seconds_after={"onnx": 0.4}.get(spec.step, 0.8),
            difference=0.0,
            change=50.0,
            pictures=spec.pictures,
            worthwhile=spec.step != "compile",
        ).model_dump(mode="json")
    if isinstance(spec, specs.DeploySpec):
        from lora_factory.deploy.stage import refuse

        judged = EvaluationReport.model_validate(store.read_manifest(spec.evaluation).stats)
        refuse(judged, spec.approved_by)
        return DeployReport(
            name=spec.name,
            version="v1",
            target=spec.target,
            endpoint="http://127.0.0.1:1/generate",
            smoke_seconds=0.1,
            base="b",
            trigger="t",
            approved_by=spec.approved_by,
        ).model_dump(mode="json")
    return {"stage": stage}


if __name__ == "__main__":
    sys.exit(main())
