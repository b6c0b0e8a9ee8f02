"""The deploy stage and its dry run, with artifacts of a store, to a hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hub_repositories import Hub
from lora_factory.__main__ import main
from lora_factory.contracts.evaluation import Advice, DeployReport, EvaluationReport
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.training import TrainReport
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store

pytestmark = pytest.mark.integration
CARD = "---\ntags: [lora, diffusers]\ninstance_prompt: icnx\n---\n# Icons\n"


def commit(
    settings: Settings, kind: Kind, folder: Path, stats: Any, inputs: dict[str, str] | None = None
) -> str:
    """Put a folder into the store as an artifact; gives its URI."""
    entries = tuple(
        InputEntry(name=name, manifest_uri=uri, sha256=uri.rpartition("=")[2])
        for name, uri in (inputs or {}).items()
    )
    draft = Manifest(
        kind=kind,
        stage="x",
        stage_version=1,
        key="0" * 24,
        attempt="a",
        spec={},
        inputs=entries,
        stats=stats.model_dump(mode="json"),
        files=(),
        code_version="0",
        created_at=datetime.now(UTC),
    )
    return open_store(settings).commit(folder, draft)


@pytest.fixture
def spec(settings: Settings, tmp_path: Path, make_lora: Callable[[int, float], Path]) -> Any:
    trained = TrainReport(
        base="emoji",
        trigger="icnx",
        rank=4,
        steps=1,
        best_step=1,
        train_loss=0.2,
        validation_loss_before=0.3,
        validation_loss=0.2,
        images_per_second=1,
        peak_memory_mb=1,
    )
    judged = EvaluationReport(
        verdict="pass",
        overall=0.9,
        overall_low=0.88,
        threshold=0.85,
        metrics=(),
        gates=(),
        advice=Advice(),
        prompts=("icnx, a red apple",),
        trigger="icnx",
        base="emoji",
        scorer="s",
    )
    lora, evaluation = tmp_path / "lora", tmp_path / "evaluation"
    lora.mkdir()
    (lora / "lora.safetensors").write_bytes(make_lora(1, 0.05).read_bytes())
    (evaluation / "samples").mkdir(parents=True)
    (evaluation / "README.md").write_text(CARD)
    (evaluation / "samples" / "a.png").write_bytes(b"picture")
    lora_uri = commit(settings, "lora", lora, trained)
    uris = {"lora": lora_uri}
    evaluation_uri = commit(settings, "evaluation", evaluation, judged, uris)
    return {"lora": lora_uri, "evaluation": evaluation_uri, "name": "icons", "target": "hub"}


def test_a_dry_run_prints_the_plan_and_does_nothing(
    hub: Hub,
    settings: Settings,
    spec: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LORA_FACTORY_STORE", settings.store)
    monkeypatch.setenv("LORA_FACTORY_SCRATCH", str(settings.scratch))
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    assert main(["deploy-plan", "--spec", str(file)]) == 1  # no namespace is set
    monkeypatch.setenv("LORA_FACTORY_HUB_NAMESPACE", "factory")
    assert main(["deploy-plan", "--spec", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "→ hub; live now: none\n  make the private repository factory/icons\n" in printed
    assert hub.state() == {}
    file.write_text("{}")
    assert main(["deploy-plan", "--spec", str(file)]) == 1


def test_the_stage_publishes_to_a_hub(hub: Hub, settings: Settings, spec: Any) -> None:
    settings = settings.model_copy(update={"hub_namespace": "factory", "hub_private": False})
    result = run_stage("deploy", spec, settings)
    report = DeployReport.model_validate(
        open_store(settings).read_manifest(result.manifest_uri).stats
    )
    assert (report.target, report.endpoint) == ("hub", f"{hub.url}/factory/icons")
    repo = hub.repositories["factory/icons"]
    assert not repo.private
    files = repo.commits[repo.branches["main"]]
    assert {"README.md", "samples/a.png", "lora.safetensors"} < files.keys()
    assert b"lora_unet_" in files["lora.kohya.safetensors"]
    assert not {"lineage.json", "bom.cdx.json", "dataset.manifest.json"} & files.keys()
    assert run_stage("deploy", spec, settings).manifest_uri != result.manifest_uri
    assert repo.commits[repo.branches["main"]] is files
