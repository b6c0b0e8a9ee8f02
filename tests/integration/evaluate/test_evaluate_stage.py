"""The stage on the embedded base: a real LoRA, and sabotaged ones that must not pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from evaluate_samples import Run, make_dataset, sabotage
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_factory.contracts.evaluation import Advice, EvaluationReport
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.errors import DataError, Interrupted, ModelError
from lora_factory.evaluate import stage
from lora_factory.models.profiles import load_profile

SPEC = EvaluateSpec(lora="l", dataset="d", prompts=8, steps=8)
QUICK = SPEC.model_copy(update={"prompts": 4, "steps": 2})
FILES = {"report.json", "report.html", "grid.png", "advice.json"}


def closed(report: EvaluationReport) -> set[str]:
    return {gate.name for gate in report.gates if not gate.passed}


def scores(report: EvaluationReport) -> dict[str, float | None]:
    return {metric.name: metric.score for metric in report.metrics}


@pytest.fixture(scope="module")
def base_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's pictures, kept by the first evaluation for the later ones."""
    return tmp_path_factory.mktemp("base_pictures") / "base"


def evaluate(context: Run, lora: Path, dataset: Path, kept: Path) -> tuple[EvaluationReport, Path]:
    ctx = context(lora, dataset)
    if kept.exists():
        shutil.copytree(kept, ctx.scratch / "base")
    report = stage.run(SPEC, ctx)
    if not kept.exists():
        shutil.copytree(ctx.scratch / "base", kept)
    return report, ctx.out


@pytest.mark.slow
def test_a_trained_lora(context: Run, lora: Path, dataset: Path, base_pictures: Path) -> None:
    report, out = evaluate(context, lora, dataset, base_pictures)
    assert closed(report) == set()
    found = scores(report)
    assert (found["fidelity"] or 0) > 0.5
    assert (found["diversity"] or 0) > 0.5
    assert (found["efficiency"] or 0) > 0.3
    assert report.overall_low <= report.overall
    assert (report.verdict == "pass") == (report.overall >= report.threshold)
    assert {file.name for file in out.iterdir()} >= FILES
    assert EvaluationReport.model_validate_json((out / "report.json").read_bytes()) == report
    Advice.model_validate_json((out / "advice.json").read_bytes())
    for side in ("base", "lora"):
        pictures = sorted((out / "images" / side).glob("*.png"))
        assert len(pictures) == 8
        with Image.open(pictures[0]) as picture:
            assert picture.size == (64, 64)
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeroed", "thirtyfold", "noise"])
def test_sabotaged_loras_do_not_pass(
    name: str, context: Run, lora: Path, dataset: Path, base_pictures: Path, tmp_path: Path
) -> None:
    dice = torch.Generator().manual_seed(0)
    change = {
        "zeroed": torch.zeros_like,
        "thirtyfold": lambda up: up * 30,
        # The right size, but learned from nothing.
        "noise": lambda up: torch.randn(up.shape, generator=dice) * up.std(),
    }[name]
    file = sabotage(lora, tmp_path / "sabotaged.safetensors", change)
    report, _ = evaluate(context, file, dataset, base_pictures)
    assert report.verdict == "fail"
    assert report.overall < 0.6
    assert ("effect" in closed(report)) == (name == "zeroed")


def test_an_untrained_lora_does_not_pass(context: Run, untrained: Path, dataset: Path) -> None:
    """Every ``lora_up`` is zero: the pictures are the base's."""
    report = stage.run(QUICK, context(untrained, dataset))
    assert report.verdict == "fail"
    assert "effect" in closed(report)
    assert report.overall == 0.0


def test_a_lora_that_repeats_one_training_image_is_caught(
    context: Run, untrained: Path, dataset: Path
) -> None:
    """Pictures of such a LoRA, put where a retry finds those made before."""
    ctx = context(untrained, dataset)
    (ctx.scratch / "lora").mkdir()
    original = sorted((dataset / "train").glob("*.png"))[3]
    for number in range(QUICK.prompts):
        shutil.copy(original, ctx.scratch / "lora" / f"{number:04d}.png")
    report = stage.run(QUICK, ctx)
    assert report.verdict == "fail"
    assert "no_copies" in closed(report)
    assert scores(report)["diversity"] == pytest.approx(0.0, abs=1e-3)
    assert report.advice.learning_rate_scale < 1


def test_nan_weights_fail_and_say_so(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    file = sabotage(untrained, tmp_path / "nan.safetensors", lambda up: up + float("nan"))
    ctx = context(file, dataset)
    report = stage.run(QUICK, ctx)
    assert report.verdict == "fail"
    assert report.overall == 0.0
    assert closed(report) == {"finite_weights"}
    assert all(score is None for score in scores(report).values())
    assert {item.name for item in ctx.out.iterdir()} == FILES


def test_keys_that_fit_nothing_fail_and_say_so(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    weights = load_file(untrained)
    weights["unet.no.such.layer.lora_A.weight"] = torch.ones(2, 2)
    save_file(weights, tmp_path / "odd.safetensors")
    report = stage.run(SPEC, context(tmp_path / "odd.safetensors", dataset))
    assert report.verdict == "fail"
    assert closed(report) == {"keys_used"}
    assert "no.such.layer" in report.gates[-1].detail


def test_a_damaged_file_is_an_error(context: Run, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 64)
    ctx = context(tmp_path / "bad.safetensors", dataset)
    with pytest.raises(ModelError, match="can't be read"):
        stage.run(QUICK, ctx)
    assert not list(ctx.out.iterdir())


def test_a_base_that_changed_is_an_error(context: Run, untrained: Path, dataset: Path) -> None:
    with pytest.raises(ModelError, match="has changed since"):
        stage.run(SPEC, context(untrained, dataset, base_revision="sha256:other"))


def test_too_few_images_are_an_error(context: Run, untrained: Path, tmp_path: Path) -> None:
    few = make_dataset(tmp_path / "few", train=2, validation=1)
    with pytest.raises(DataError, match="evaluation needs 4"):
        stage.run(SPEC, context(untrained, few))


def test_few_validation_images_are_said_to_be_few(
    context: Run, untrained: Path, tmp_path: Path
) -> None:
    ctx = context(untrained, make_dataset(tmp_path / "few", train=20, validation=2))
    report = stage.run(QUICK, ctx)
    gate = next(gate for gate in report.gates if gate.name == "style_measurable")
    assert "only 2 validation images" in gate.detail


def test_asked_to_stop_it_keeps_its_pictures(context: Run, untrained: Path, dataset: Path) -> None:
    ctx = context(untrained, dataset)
    ctx.stop.set()
    with pytest.raises(Interrupted):
        stage.run(QUICK, ctx)
    assert not list(ctx.out.iterdir())


def test_roles_resolve() -> None:
    profile = load_profile("embedded", Settings())
    assert {"image_text_scorer", "base:emoji"} <= profile.revisions(stage.roles(SPEC)).keys()
