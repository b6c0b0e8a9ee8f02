"""Comparing two real LoRAs on the embedded base, through the command people type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluate_samples import TRIGGER, lora_artifact, manifest, sabotage
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_factory import __main__ as command
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.contracts.training import TrainReport
from lora_factory.errors import ModelError, SpecError
from lora_factory.evaluate.compare import NAMES, ComparisonReport, one_base
from lora_factory.models.profiles import load_profile
from lora_factory.store.artifacts import ArtifactStore

STEP = "checkpoints/step-000020.safetensors"


@pytest.fixture
def store(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    url = f"file://{tmp_path}/store"
    monkeypatch.setenv("LORA_FACTORY_STORE", url)
    monkeypatch.setenv("LORA_FACTORY_SCRATCH", str(shared))
    monkeypatch.setenv("LORA_FACTORY_THREADS", "1")
    return ArtifactStore(url, tmp_path / "cache")


@pytest.fixture
def noisy(untrained: Path, tmp_path: Path) -> Path:
    """Random updates, large enough to be seen."""
    dice = torch.Generator().manual_seed(0)
    return sabotage(
        untrained,
        tmp_path / "noisy.safetensors",
        lambda up: 0.05 * torch.randn(up.shape, generator=dice),
    )


def commit(store: ArtifactStore, artifact: LocalArtifact, key: str) -> str:
    draft = artifact.manifest.model_copy(update={"key": key})
    return store.commit(artifact.path, draft).partition("#")[0]


def compare(a: str, b: str, dataset: str, out: Path) -> int:
    quick = ["--prompts", "4", "--steps", "2"]
    return command.main(["compare", a, b, "--dataset", dataset, "--out", str(out), *quick])


def test_two_loras_are_drawn_and_measured_alike(
    store: ArtifactStore,
    untrained: Path,
    noisy: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = commit(store, LocalArtifact(dataset, manifest("dataset", {}, {}), "", "0" * 64), "data")
    one = lora_artifact(tmp_path / "one", noisy, {}, {STEP: untrained})
    uri = commit(store, one, "one")
    assert compare(uri, f"{uri}#{STEP}", data, tmp_path / "out") == 0
    report = ComparisonReport.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert (report.a.checkpoint, report.b.checkpoint) == ("lora.safetensors", STEP)
    assert report.a.trigger == report.b.trigger == TRIGGER
    # The file whose updates are all zero draws what the base draws, to the last pixel.
    closed = {gate.name for gate in report.b.gates if not gate.passed}
    assert "effect" in closed
    assert "effect" not in {gate.name for gate in report.a.gates if not gate.passed}
    scores = {one.metric: one for one in report.differences}
    assert scores["fidelity"].b == 0.0
    assert scores["drift"].b == 1.0
    assert scores["drift"].better in {"B", "unclear"}
    assert set(scores) == set(NAMES)
    with Image.open(tmp_path / "out" / "compare.png") as sheet:
        assert sheet.width > 1000
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<script" not in page
    said = capsys.readouterr().out
    assert said.startswith(report.words)
    assert "compare.html" in said


def test_loras_of_two_bases_can_not_be_compared(
    store: ArtifactStore,
    untrained: Path,
    dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = commit(store, LocalArtifact(dataset, manifest("dataset", {}, {}), "", "0" * 64), "data")
    one = lora_artifact(tmp_path / "one", untrained, {}, {})
    stats = {**one.manifest.stats, "base": "sd15"}
    other = LocalArtifact(one.path, one.manifest.model_copy(update={"stats": stats}), "", "")
    a, b = commit(store, one, "one"), commit(store, other, "other")
    assert compare(a, b, data, tmp_path / "out") == 1
    assert "A is a LoRA of base 'emoji', B of base 'sd15'" in caplog.text
    assert not list((tmp_path / "out").iterdir())
    assert compare(b, b, data, tmp_path / "out") == 1
    assert "has no base 'sd15'" in caplog.text
    assert compare(a, data, data, tmp_path / "out") == 1
    assert "is a dataset without file" in caplog.text
    assert compare(a, a, a, tmp_path / "out") == 1
    assert "give a dataset's manifest" in caplog.text


def test_a_base_that_changed_since_is_refused(untrained: Path, tmp_path: Path) -> None:
    profile = load_profile("embedded", Settings())
    now = profile.bases["emoji"].resolve_revision()
    fits = lora_artifact(tmp_path / "fits", untrained, {"base:emoji": now}, {})
    old = lora_artifact(tmp_path / "old", untrained, {"base:emoji": "sha256:other"}, {})
    trained = TrainReport.model_validate(fits.manifest.stats)
    assert one_base(profile, (fits, fits), (trained, trained)).name == "emoji"
    with pytest.raises(ModelError, match="has changed since LoRA B"):
        one_base(profile, (fits, old), (trained, trained))
    gone = trained.model_copy(update={"base": "gone"})
    with pytest.raises(SpecError, match="has no base 'gone'"):
        one_base(profile, (fits, fits), (gone, gone))


def test_a_file_for_another_shape_is_an_error(
    store: ArtifactStore,
    untrained: Path,
    dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = commit(store, LocalArtifact(dataset, manifest("dataset", {}, {}), "", "0" * 64), "data")
    weights = load_file(untrained)
    weights["unet.no.such.layer.lora_A.weight"] = torch.ones(2, 2)
    save_file(weights, tmp_path / "odd.safetensors")
    a = commit(store, lora_artifact(tmp_path / "one", untrained, {}, {}), "one")
    b = commit(store, lora_artifact(tmp_path / "odd", tmp_path / "odd.safetensors", {}, {}), "odd")
    assert compare(a, b, data, tmp_path / "out") == 1
    assert "no.such.layer" in caplog.text
