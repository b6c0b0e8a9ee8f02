"""What trainings do about what goes wrong, each broken on purpose on the embedded base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lora_factory.contracts.options import TrainOptions
from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.errors import SpecError, TrainingError
from lora_factory.train import loop, stage
from lora_factory.train.data import Split, load_split
from training_data import context, make_dataset, make_plan, plan_artifact, read_rows

SPEC = TrainSpec(dataset="d", plan="p")


@pytest.fixture(autouse=True)
def one_base(base: DiffusionBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(_entry: object) -> DiffusionBase:
        base.drop_adapter(stage.ADAPTER)
        return base

    monkeypatch.setattr(stage, "load_base", loaded)


def train(
    work: Path, *, images: int = 4, validation: int = 4, spec: TrainSpec = SPEC, **plan: object
) -> TrainReport:
    dataset = make_dataset(work / "dataset", train=images, validation=validation)
    ctx = context(work, dataset=dataset, plan=plan_artifact(work / "plan", make_plan(**plan)))
    return stage.run(spec, ctx)


HASTY = {"learning_rate": 2e-2, "rank": 16, "alpha": 16.0, "caption_dropout": 0.0, "flip": False}


def alike(loaded: Split) -> None:
    """All training images are the first one."""
    for bucket in loaded.buckets:
        bucket.mean[:] = bucket.mean[:, :, :1].clone()
        bucket.std.zero_()


def small(loaded: Split) -> None:
    """Training latents a twentieth of what they were."""
    for bucket in loaded.buckets:
        bucket.mean.mul_(0.05)
        bucket.std.mul_(0.05)


def spoil(monkeypatch: pytest.MonkeyPatch, what: object) -> None:
    def spoilt(split: str, *rest: object) -> Split | None:
        loaded = load_split(split, *rest)  # type: ignore[arg-type]
        if split == "train" and loaded is not None:
            what(loaded)  # type: ignore[operator]
        return loaded

    monkeypatch.setattr(stage, "load_split", spoilt)


@pytest.mark.slow
@pytest.mark.parametrize("on_overfit", ["stop", "regularise"])
def test_overfitting_ends_early_with_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_overfit: str
) -> None:
    monkeypatch.setattr(loop, "PROBE_STEPS", 10)
    options = TrainOptions.model_validate({"on_overfit": on_overfit})
    plan = {**HASTY, "learning_rate": 1e-2, "steps": 160, "options": options}
    report = train(tmp_path, validation=6, **plan)
    assert report.actions
    assert {action.what for action in report.actions} == {"overfit"}
    first = report.actions[0]
    assert first.evidence["ratio"] > 1.2
    assert report.validation_loss < report.validation_loss_before
    rows = read_rows(tmp_path / "out" / "training.jsonl")
    assert [row["step"] for row in rows if "action" in row] == [a.step for a in report.actions]
    if on_overfit == "stop":
        assert (report.stopped_by, report.steps) == ("overfit", first.step)
        assert report.best_step < first.step
    else:
        assert report.steps > first.step
        assert "weight decay 0.1, dropout 0.1, caption dropout 0.1" in first.did
        later = [row for row in rows if "val" in row and row["step"] > first.step]
        at = next(row for row in rows if "val" in row and row["step"] == first.step)
        assert later[0]["val"] < at["val"]  # the best weights were restored


@pytest.mark.slow
@pytest.mark.parametrize(("sabotage", "sign"), [(alike, "spread"), (small, "size")])
def test_a_collapse_slows_training_down_and_adds_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: object, sign: str
) -> None:
    monkeypatch.setattr(loop, "PROBE_STEPS", 10)
    spoil(monkeypatch, sabotage)
    layers = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
    plan = {**HASTY, "steps": 70, "target_modules": layers}
    report = train(tmp_path, images=8, validation=6, **plan)
    first = report.actions[0]
    assert first.what == "collapse"
    assert first.evidence[sign] < 0.5
    assert "learning rate × 0.5, noise 0.1" in first.did
    rows = read_rows(tmp_path / "out" / "training.jsonl")
    after = [row for row in rows if "val" in row and row["step"] > first.step]
    assert all(row[sign] > first.evidence[sign] for row in after)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "images", "rate"), [(0, 24, 2e-3), (1, 24, 4e-3), (2, 3, 2e-3)])
def test_healthy_trainings_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, images: int, rate: float
) -> None:
    monkeypatch.setattr(loop, "PROBE_STEPS", 10)
    report = train(tmp_path, images=images, validation=8, seed=seed, steps=100, learning_rate=rate)
    assert report.actions == ()
    assert report.stopped_by == "steps"


def test_nan_in_a_step_keeps_the_last_good_weights_and_names_the_image(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []
    sound = loop.Sampler.batch

    def poisoned(sampler: loop.Sampler, step: int, dropout: float | None = None) -> object:
        batch = sound(sampler, step, dropout)
        if step == 3:
            batch.latents[1] = torch.nan
            broken.append(sampler._split.files[batch.indices[1]])
        return batch

    monkeypatch.setattr(loop.Sampler, "batch", poisoned)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, steps=6)
    message = str(caught.value)
    assert "diverged at step 4: loss is nan" in message
    assert f"(images: {broken[0]})" in message
    file = tmp_path / "scratch" / "checkpoint-00000003.safetensors"
    assert str(file) in message
    with safe_open(str(file), framework="pt") as opened:
        assert all(bool(opened.get_tensor(name).isfinite().all()) for name in opened.keys())  # noqa: SIM118


def test_out_of_memory_halves_what_is_held_at_a_time(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, refused = base.predict, []

    def crowded(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        if (latents.requires_grad or torch.is_grad_enabled()) and len(latents) > 2:
            refused.append(len(latents))
            msg = "HIP out of memory. Tried to allocate 3.00 GiB"
            raise torch.OutOfMemoryError(msg)
        return predict(latents, *rest)

    plain = train(tmp_path / "plain", steps=3)
    monkeypatch.setattr(base, "predict", crowded)
    report = train(tmp_path / "crowded", steps=3)
    assert refused == [4]
    (action,) = report.actions
    assert (action.what, action.step, action.evidence) == ("memory", 0, {"images_at_a_time": 2.0})
    rows = [read_rows(tmp_path / name / "out" / "training.jsonl") for name in ("plain", "crowded")]
    losses = [[row["loss"] for row in found if "loss" in row] for found in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert report.validation_loss == pytest.approx(plain.validation_loss, rel=1e-3)


def test_one_image_that_does_not_fit_is_an_error(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> torch.Tensor:
        msg = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(base, "predict", full)
    with pytest.raises(TrainingError, match="out of memory with 1 image"):
        train(tmp_path, steps=3)


def test_other_errors_are_not_taken_for_it(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> torch.Tensor:
        msg = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(msg)

    monkeypatch.setattr(base, "predict", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        train(tmp_path, steps=3)


def test_the_time_allowed_ends_a_training_in_order(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"options": {"max_gpu_minutes": 1e-6}})
    report = train(tmp_path, steps=500, spec=spec, learning_rate=1e-2)
    assert (report.stopped_by, report.steps) == ("time", 1)
    assert [action.what for action in report.actions] == ["time"]
    assert (tmp_path / "out" / "lora.safetensors").exists()


def test_small_gradients_let_the_batch_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_factory.train.reactions.SMALL_GRADIENT", 10.0)
    options = TrainOptions(grow_batch=True, schedule="constant")
    report = train(tmp_path, steps=14, warmup_steps=0, images=4, batch_size=4, options=options)
    # An epoch is one step; after five epochs two batches a step, after ten four.
    rows = read_rows(tmp_path / "out" / "training.jsonl")
    # Epochs here are plan.measurements.size (8) / 4 = 2 steps: every tenth step.
    assert [row["step"] for row in rows if "loss" in row] == [*range(1, 11), 12, 14]
    assert [action.step for action in report.actions] == [10]
    rates = [row["lr"] for row in rows if "loss" in row]
    assert rates[-1] == pytest.approx(rates[0] * 2**0.5)


def test_a_sparse_training_ends_as_sparse_as_asked_for(tmp_path: Path, base: DiffusionBase) -> None:
    options = TrainOptions(sparsity=0.75)
    train(tmp_path, steps=12, warmup_steps=1, options=options, learning_rate=1e-2)
    read = base.read_adapter(tmp_path / "out" / "lora.safetensors")
    for pair in read.layers.values():
        for weight in pair:
            assert (weight == 0).float().mean().item() == pytest.approx(0.75, abs=0.02)


def test_options_that_contradict_the_plans_are_refused(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"options": {"optimizer": "prodigy"}})
    with pytest.raises(SpecError, match="leave lora_plus at 1"):
        train(tmp_path, spec=spec, options=TrainOptions(lora_plus=4.0))
