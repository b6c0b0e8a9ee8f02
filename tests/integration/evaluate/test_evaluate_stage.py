"""The stage on the embedded base: a real LoRA, and sabotaged ones that must not pass."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_samples import Run, make_context, make_dataset, sabotage
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_factory.contracts.evaluation import Advice, EvaluationReport
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, DataError, Interrupted, ModelError, SpecError
from lora_factory.evaluate import stage
from lora_factory.evaluate.evaluator import NAMES
from lora_factory.evaluate.pairs import FOLDER, Adapter, Painter
from lora_factory.evaluate.prompts import EvalPrompt
from lora_factory.models.profiles import PACKAGE, load_profile

NOTHING_BESIDE = {"audit_pictures": 0, "settings_prompts": 0, "xyz_pictures": 0}
SPEC = EvaluateSpec.model_validate({
    **{"lora": "l", "dataset": "d", "prompts": 8, "steps": 8, "choosing": 4, "drift": 4},
    **NOTHING_BESIDE,
})
QUICK = SPEC.model_copy(update={"prompts": 4, "steps": 2, "choosing": 2, "drift": 2})
STEP = "checkpoints/step-000020.safetensors"
FILES = {"report.json", "report.html", "grid.png", "advice.json"}


def closed(report: EvaluationReport) -> set[str]:
    return {gate.name for gate in report.gates if not gate.passed}


def scores(report: EvaluationReport) -> dict[str, float | None]:
    return {metric.name: metric.score for metric in report.metrics}


@pytest.mark.slow
def test_a_trained_lora(context: Run, lora: Path, untrained: Path, dataset: Path) -> None:
    """Its file is chosen among checkpoints, and it beats a deployed one that learned nothing."""
    ctx = context(lora, dataset, checkpoints={STEP: untrained}, incumbent=untrained)
    report = stage.run(SPEC, ctx)
    assert closed(report) == set()
    found = scores(report)
    assert (found["fidelity"] or 0) > 0.5
    assert (found["diversity"] or 0) > 0.5
    assert (found["efficiency"] or 0) > 0.3
    assert report.overall_low <= report.overall
    assert (report.verdict == "fail") == (report.overall_low < report.threshold)
    assert report.checkpoint == "lora.safetensors"
    assert {one.checkpoint for one in report.candidates} == {"lora.safetensors", STEP}
    assert report.incumbent is not None
    assert report.incumbent.low > 0.2
    assert {file.name for file in ctx.out.iterdir()} >= FILES
    assert EvaluationReport.model_validate_json((ctx.out / "report.json").read_bytes()) == report
    Advice.model_validate_json((ctx.out / "advice.json").read_bytes())
    for side in ("base", "lora"):
        pictures = sorted((ctx.out / "images" / side).glob("*.png"))
        assert len(pictures) == 8
        with Image.open(pictures[0]) as picture:
            assert picture.size == (64, 64)
    with Image.open(ctx.out / "grid.png") as grid:
        assert grid.width > 1000


@pytest.mark.slow
def test_the_better_checkpoint_is_judged(
    context: Run, lora: Path, untrained: Path, dataset: Path
) -> None:
    """The last file learned nothing, an earlier snapshot did; the incumbent is as good."""
    ctx = context(untrained, dataset, checkpoints={STEP: lora}, incumbent=lora)
    report = stage.run(SPEC, ctx)
    assert report.checkpoint == STEP
    assert (scores(report)["fidelity"] or 0) > 0.5
    assert report.incumbent is not None
    assert report.incumbent.difference == pytest.approx(0.0, abs=1e-6)
    assert closed(report) == {"beats_incumbent"}
    assert report.verdict == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeroed", "thirtyfold", "noise"])
def test_sabotaged_loras_do_not_pass(
    name: str, context: Run, lora: Path, dataset: Path, tmp_path: Path
) -> None:
    dice = torch.Generator().manual_seed(0)
    change = {
        "zeroed": torch.zeros_like,
        "thirtyfold": lambda up: up * 30,
        # The right size, but learned from nothing.
        "noise": lambda up: torch.randn(up.shape, generator=dice) * up.std(),
    }[name]
    file = sabotage(lora, tmp_path / "sabotaged.safetensors", change)
    report = stage.run(SPEC, context(file, dataset))
    assert report.verdict == "fail"
    assert report.overall < 0.6
    assert ("effect" in closed(report)) == (name == "zeroed")


@pytest.fixture(scope="module")
def judged(
    untrained: Path, dataset: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationReport, StageContext]:
    """A LoRA whose every ``lora_up`` is zero, against the same as the deployed one."""
    folder = tmp_path_factory.mktemp("judged")
    ctx = make_context(folder, shared, untrained, dataset, incumbent=untrained)
    return stage.run(QUICK, ctx), ctx


Judged = tuple[EvaluationReport, StageContext]


def test_an_untrained_lora_does_not_pass(judged: Judged) -> None:
    """Its pictures are the base's."""
    report, _ = judged
    assert report.verdict == "fail"
    assert "effect" in closed(report)
    assert report.overall == 0.0
    assert scores(report)["drift"] == 1.0


def test_every_number_says_what_it_rests_on(judged: Judged) -> None:
    report, _ = judged
    names = [metric.name for metric in report.metrics]
    assert names == [*NAMES, "cmmd", "kid"]
    for metric in report.metrics:
        assert metric.n > 0
        assert metric.value_low is not None
        assert metric.value_high is not None
        assert metric.value_low <= metric.value_high
        if metric.score is not None:
            assert metric.low is not None
        assert metric.scorer == ("" if metric.name == "efficiency" else report.scorer)
    assert any("not calibrated on people" in note for note in report.notes)
    alignment = next(one for one in report.metrics if one.name == "alignment")
    blind = alignment.score is None or not alignment.counted
    assert any("is only in a gate" in note for note in report.notes) == blind
    assert len(report.prompts) == 4
    assert len(report.drift_prompts) == 2
    assert not set(report.prompts) & {*report.choosing_prompts, *report.drift_prompts}


def test_a_deployed_model_that_is_the_same_is_not_beaten(judged: Judged) -> None:
    report, _ = judged
    assert "beats_incumbent" in closed(report)
    assert report.incumbent is not None
    assert (report.incumbent.low, report.incumbent.high) == (0.0, 0.0)


def test_a_lora_that_repeats_one_training_image_is_caught(judged: Judged, dataset: Path) -> None:
    """Pictures of such a LoRA, put where a retry finds those made before."""
    _, ctx = judged
    original = sorted((dataset / "train").glob("*.png"))[3]
    for file in (ctx.scratch / "pictures").rglob("*.png"):
        shutil.copy(original, file)
    shutil.rmtree(ctx.out)
    ctx.out.mkdir()
    report = stage.run(QUICK, ctx)
    assert report.verdict == "fail"
    assert "no_copies" in closed(report)
    assert scores(report)["diversity"] == 0.0
    assert report.advice.learning_rate_scale < 1 or report.advice.items


def test_base_pictures_are_made_once_for_all_evaluations(judged: Judged, shared: Path) -> None:
    """Kept where all evaluations look; a damaged one is made anew, to the same picture."""
    _, ctx = judged
    kept = {file: file.stat().st_ino for file in (shared / FOLDER).rglob("*.png")}
    assert len(kept) >= QUICK.prompts + 2 * QUICK.drift
    entry = load_profile("embedded", Settings()).bases["emoji"]
    painter = Painter(load_base(entry), entry.resolve_revision(), QUICK, ctx)
    prompts = [EvalPrompt("a kite", 7, -1), EvalPrompt("a boat", 8, -1)]
    first = [np.asarray(image, dtype=int) for image in painter.paint(prompts)]
    key = painter.key(prompts[0], None, 1.0, QUICK.steps)
    damaged = shared / FOLDER / key[:2] / f"{key}.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    again = [np.asarray(image, dtype=int) for image in painter.paint(prompts)]
    assert (again[1] == first[1]).all()
    assert np.abs(again[0] - first[0]).max() <= 2  # alone in its batch, it rounds otherwise
    assert {file: file.stat().st_ino for file in kept} == kept


def test_pictures_of_a_fused_adapter_are_those_of_one_beside_the_weights(
    judged: Judged, untrained: Path, tmp_path: Path
) -> None:
    """What evaluation draws in a quarter less time is what serving draws; the base comes back."""
    dice = torch.Generator().manual_seed(0)
    file = sabotage(
        untrained,
        tmp_path / "random.safetensors",
        lambda up: torch.randn(up.shape, generator=dice) * 0.02,
    )
    entry = load_profile("embedded", Settings()).bases["emoji"]
    base = load_base(entry)
    painter = Painter(base, entry.resolve_revision(), QUICK, judged[1])
    adapter = Adapter.load(base, "random", file)
    prompts = [EvalPrompt("a kite", 7, -1), EvalPrompt("a boat", 8, -1)]

    def drawn(*with_what: Adapter | None) -> list[np.ndarray]:
        images = [painter._make(prompts, one, 1.0, QUICK.steps) for one in with_what]
        return [np.stack([np.asarray(image, dtype=int) for image in some]) for some in images]

    before, fused, beside, after = drawn(None, adapter, replace(adapter, built=True), None)
    assert np.abs(fused - beside).max() <= 2
    assert np.abs(fused - before).max() > 20
    assert (before == after).all()


def test_what_cannot_be_drawn_is_neither_beaten_nor_chosen(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    """A checkpoint and a deployed model with NaN in them."""
    nan = sabotage(untrained, tmp_path / "nan.safetensors", lambda up: up + float("nan"))
    report = stage.run(QUICK, context(untrained, dataset, None, {STEP: nan}, nan))
    gate = next(gate for gate in report.gates if gate.name == "beats_incumbent")
    assert not gate.passed
    assert "can't be drawn any more" in gate.detail
    assert report.checkpoint == "lora.safetensors"
    assert report.candidates == ()
    assert any(f"{STEP} was no candidate" in note for note in report.notes)


def test_a_deployed_file_that_is_not_there_is_an_error(
    context: Run, untrained: Path, dataset: Path
) -> None:
    spec = QUICK.model_copy(update={"incumbent_checkpoint": STEP})
    with pytest.raises(ArtifactError, match="has no file checkpoints/step"):
        stage.run(spec, context(untrained, dataset, incumbent=untrained))


def test_more_pictures_than_memory_holds_are_refused_at_once(
    context: Run, untrained: Path, dataset: Path
) -> None:
    many = QUICK.model_copy(update={"prompts": 10**6})
    with pytest.raises(SpecError, match="ask for fewer prompts or seeds"):
        stage.run(many, context(untrained, dataset))


def profile_with(folder: Path, text: str, without: str = "") -> Path:
    """An operator's profile ``own``: the embedded one without a role, and with more text."""
    source = (PACKAGE / "profiles" / "embedded.toml").read_text()
    head, *tables = source.split("\n[")
    kept = [table for table in tables if not without or not table.startswith(without)]
    (folder / "own.toml").write_text("\n[".join([head, *kept]) + text)
    return folder


def test_optional_roles_of_the_profile_are_asked(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    """The small CLIP stands in for a preference model: the same class, with other weights."""
    more = '\n[roles.preference_scorer]\nkind = "clip-preference"\npath = "emoji-clip"\n'
    ctx = context(untrained, dataset, profiles=profile_with(tmp_path, more))
    report = stage.run(QUICK.model_copy(update={"profile": "own", "seeds": 2}), ctx)
    metric = report.metrics[-1]
    assert (metric.name, metric.counted, metric.n) == ("preference", False, 8)
    assert (len(report.prompts), report.seeds) == (4, 2)
    assert metric.value == pytest.approx(0.5, abs=0.01)  # the very same pictures
    assert metric.scorer.startswith("emoji-clip@")


@pytest.mark.parametrize("role", ["image_text_scorer", "content_filter"])
def test_without_what_must_see_the_pictures_there_is_no_verdict(
    role: str, context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    kind = "clip" if role == "image_text_scorer" else "image-classification"
    more = f'\n[roles.{role}]\nkind = "{kind}"\npath = "{tmp_path}/none"\n'
    more += 'unsafe_labels = ["nsfw"]\n' if role == "content_filter" else ""
    folder = profile_with(tmp_path, more, without=f"roles.{role}")
    ctx = context(untrained, dataset, profiles=folder)
    with pytest.raises(ModelError, match="none"):
        stage.run(QUICK.model_copy(update={"profile": "own"}), ctx)
    assert not list(ctx.out.iterdir())


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


def test_a_lora_for_another_base_fails_and_says_so(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    """The same layer names, as SD 1.5 has them, and other widths."""
    weights = load_file(untrained)
    name = next(key for key in weights if key.endswith("attn2.to_k.lora_A.weight"))
    weights[name] = torch.ones(weights[name].shape[0], 768)
    save_file(weights, tmp_path / "sd15.safetensors")
    report = stage.run(SPEC, context(tmp_path / "sd15.safetensors", dataset))
    assert report.verdict == "fail"
    assert closed(report) == {"keys_used"}
    assert "use its own base" in report.gates[-1].detail


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
    found = profile.revisions(stage.roles(SPEC)).keys()
    assert found >= {"image_text_scorer", "content_filter", "base:emoji"}
    assert "preference_scorer" not in found
