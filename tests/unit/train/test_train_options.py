"""Options of a training: what each changes, and that nothing changes without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from test_train_parts import random_split

from lora_factory.contracts.options import TrainOptions
from lora_factory.contracts.specs import TrainSpec
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.errors import ConfigurationError
from lora_factory.train import optimizers, stage
from lora_factory.train.loss import perturbed
from lora_factory.train.sampling import Sampler
from training_data import context, make_dataset, make_plan, plan_artifact, read_rows


@pytest.fixture
def losses(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[float]]:
    """Trains a few steps with some options; their losses."""

    def loaded(_entry: object) -> DiffusionBase:
        base.drop_adapter(stage.ADAPTER)
        return base

    monkeypatch.setattr(stage, "load_base", loaded)
    dataset = make_dataset(tmp_path / "dataset", train=4, validation=1)

    def train(steps: int = 4, **options: object) -> list[float]:
        work = tmp_path / str(len(list(tmp_path.iterdir())))
        plan = make_plan(steps=steps, warmup_steps=0, batch_size=2, rank=16, alpha=16.0)
        ctx = context(work, dataset=dataset, plan=plan_artifact(work / "plan", plan))
        stage.run(TrainSpec(dataset="d", plan="p", options=options), ctx)
        return [row["loss"] for row in read_rows(ctx.out / "training.jsonl") if "loss" in row]

    return train


def test_checkpointed_gradients_are_the_same(losses: Callable[..., list[float]]) -> None:
    assert losses(gradient_checkpointing=True) == pytest.approx(losses(), rel=1e-4)


@pytest.mark.slow
def test_dropout_follows_from_the_seed(losses: Callable[..., list[float]]) -> None:
    dropped = losses(dropout=0.5)
    torch.rand(7)  # whatever else draws
    assert losses(dropout=0.5) == dropped
    assert dropped != losses()


def test_rslora_is_stronger_and_is_written_as_it_acts(
    losses: Callable[..., list[float]],
) -> None:
    """The stage itself compares what it wrote with what it trained (reload gate)."""
    plain, stable = losses(), losses(adapter="rslora")
    assert stable[0] == plain[0]  # lora_B is zero
    assert stable[1:] != plain[1:]


@pytest.mark.parametrize("optimizer", ["prodigy"])
def test_other_optimizers_train_and_come_back(
    losses: Callable[..., list[float]], optimizer: str
) -> None:
    pytest.importorskip("prodigyopt")
    assert all(loss < 5 for loss in losses(optimizer=optimizer))


def weights() -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 4, generator=draw)) for _ in range(4)]


def descend(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    loss = sum((weight - 1).square().sum() for weight in parameters)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "options", [{}, {"lora_plus": 8.0}, {"optimizer": "prodigy"}, {"optimizer": "adamw8bit"}]
)
def test_an_optimizer_that_was_packed_goes_on_bit_for_bit(options: dict[str, object]) -> None:
    if options.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    if options.get("optimizer") == "prodigy":
        pytest.importorskip("prodigyopt")
    plan = make_plan(options=TrainOptions.model_validate(options))
    one, two = weights(), weights()
    first = optimizers.make_optimizer(plan, one)
    for _ in range(3):
        descend(first, one)
    tensors, state = optimizers.pack(first)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for mine, other in zip(two, one, strict=True):
        mine.data.copy_(other)
    second = optimizers.make_optimizer(plan, two)
    optimizers.unpack(second, tensors, state)
    for _ in range(3):
        descend(first, one)
        descend(second, two)
    assert all(torch.equal(mine, other) for mine, other in zip(one, two, strict=True))


def test_lora_plus_raises_the_rate_of_lora_b(base: DiffusionBase) -> None:
    plan = make_plan(options=TrainOptions(lora_plus=16.0))
    parameters = base.add_adapter(stage.ADAPTER, 4, 4.0, ("to_q",))
    groups = optimizers.make_optimizer(plan, parameters).param_groups
    assert [group["lr_ratio"] for group in groups] == [1.0, 16.0]
    assert all(weight.shape[0] == 4 for weight in groups[0]["params"])
    assert all(bool((weight == 0).all()) for weight in groups[1]["params"])


def test_a_missing_package_is_named() -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        plan = make_plan(options=TrainOptions(optimizer="adamw8bit"))
        with pytest.raises(ConfigurationError, match="needs the package bitsandbytes"):
            optimizers.make_optimizer(plan, weights())
    else:
        pytest.skip("bitsandbytes is here")


def test_offset_and_injected_noise_follow_from_the_step(base: DiffusionBase) -> None:
    batch = Sampler(make_plan(batch_size=4), random_split(), base).batch(0)
    assert perturbed(batch, 0.0, 0.0, (0, 1)) is batch
    shifted = perturbed(batch, 0.1, 0.0, (0, 1)).noise - batch.noise
    assert torch.allclose(shifted, shifted.mean(dim=(2, 3), keepdim=True), atol=1e-5)
    assert 0.02 < shifted.std().item() < 0.3
    noisy = perturbed(batch, 0.0, 0.5, (0, 1))
    share = (noisy.latents - batch.latents).std(dim=(1, 2, 3)) / batch.latents.std(dim=(1, 2, 3))
    assert share.tolist() == pytest.approx([0.5] * 4, rel=0.1)
    assert torch.equal(noisy.latents, perturbed(batch, 0.0, 0.5, (0, 1)).latents)
    assert not torch.equal(noisy.latents, perturbed(batch, 0.0, 0.5, (0, 2)).latents)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"sparsity": 1.0},
        {"dropout": -0.1},
        {"max_gpu_minutes": 0},
        {"lora_plus": 0.5},
        {"unknown": 1},
        {"optimizer": "prodigy", "lora_plus": 2.0},
    ],
)
def test_bad_options_are_refused_with_the_spec(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainSpec.model_validate({"dataset": "d", "plan": "p", "options": options})
