"""Sampling, monitor, checkpoint, learning rate: the parts of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_factory.diffusion.base import DiffusionBase
from lora_factory.train.data import Bucket, Shape, Split
from lora_factory.train.monitor import TrainingMonitor
from lora_factory.train.plot import plot_losses, smooth
from lora_factory.train.sampling import Sampler, probe_batches, split_batch
from lora_factory.train.snapshots import snapshot_steps
from training_data import make_plan


def random_split(n: int = 6) -> Split:
    draw = torch.Generator().manual_seed(0)
    mean, std = torch.randn(2, 1, 2, n, 8, 16, 16, generator=draw).unbind(0)
    text = {"text_encoder": torch.randn(1, n, 32, 192, generator=draw)}
    sizes = torch.tensor([64, 64, 0, 0, 64, 64]).expand(1, 2, n, 6)
    bucket = Bucket(Shape(64, 64), tuple(range(n)), mean, std.abs(), sizes)
    empty = {"text_encoder": torch.zeros(1, 32, 192)}
    return Split((bucket,), text, empty, tuple(f"{i}.png" for i in range(n)))


def test_a_step_draws_the_same_whenever_it_is_asked_for(base: DiffusionBase) -> None:
    split, plan = random_split(), make_plan(batch_size=4, gradient_accumulation=2)
    one, two = Sampler(plan, split, base), Sampler(plan, split, base)
    late = one.batch(5)
    for step in range(5):
        two.batch(step)
    again = two.batch(5)
    for name in ("latents", "noise", "timesteps", "sizes"):
        assert torch.equal(getattr(late, name), getattr(again, name))
    assert torch.equal(late.text["text_encoder"], again.text["text_encoder"])
    assert late.indices == again.indices
    assert len(late.indices) == 8
    other = Sampler(make_plan(batch_size=4, gradient_accumulation=2, seed=1), split, base).batch(5)
    assert not torch.equal(late.noise, other.noise)
    assert not torch.equal(late.noise, one.batch(6).noise)


def test_every_image_is_seen_once_a_lap(base: DiffusionBase) -> None:
    sampler = Sampler(make_plan(batch_size=4), random_split(6), base)
    seen = [index for step in range(3) for index in sampler.batch(step).indices]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_timesteps_are_stratified(base: DiffusionBase) -> None:
    batch = Sampler(make_plan(batch_size=10), random_split(), base).batch(0)
    assert sorted(int(step) // 100 for step in batch.timesteps) == list(range(10))


def test_captions_are_dropped_and_images_mirrored_as_often_as_asked(base: DiffusionBase) -> None:
    split = random_split(4)
    (bucket,) = split.buckets

    def shares(**changes: object) -> tuple[float, float]:
        sampler = Sampler(make_plan(batch_size=100, **changes), split, base)
        batch = sampler.batch(0)
        dropped = [not row.any() for row in batch.text["text_encoder"]]
        upright = bucket.mean[0, 0, batch.indices]
        near = (batch.latents - upright).abs().mean(dim=(1, 2, 3)) < bucket.std.mean()
        return sum(dropped) / 100, 1 - near.float().mean().item()

    assert shares(caption_dropout=0.0, flip=False) == (0.0, pytest.approx(0.0, abs=1e-6))
    assert shares(caption_dropout=1.0, flip=False)[0] == 1.0
    some = shares(caption_dropout=0.3, flip=True)
    assert 0.15 < some[0] < 0.45
    assert 0.3 < some[1] < 0.7


def test_probes_are_fixed_and_parts_add_up(base: DiffusionBase) -> None:
    (first,), (second,) = (probe_batches(random_split(n), base) for n in (3, 5))
    assert torch.equal(first.timesteps, second.timesteps)
    assert torch.equal(first.noise, second.noise)
    assert len(first.indices) == 32
    parts = list(split_batch(first, 12))
    assert [len(part.indices) for part in parts] == [12, 12, 8]
    assert torch.equal(torch.cat([part.noise for part in parts]), first.noise)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    monitor = TrainingMonitor(tmp_path / "rows")
    for step in range(1, 30):
        monitor.log({"step": step, "loss": 1 / step, "lr": 0.1, "grad_norm": 1.0})
    monitor.log({"step": 0, "train_probe": 0.5, "val": 0.6})
    plot_losses(monitor, 10, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (800, 450)
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [
        (320, 1 << 20, [80, 160, 240]),
        (8, 1 << 20, [2, 4, 6]),
        (2, 1 << 20, [1]),
        (1, 1 << 20, []),
        (300, 1 << 30, [100, 200]),  # two of 1 GiB are as much as is kept
        (300, 3 << 30, []),
    ],
)
def test_snapshots_are_few_and_bounded(steps: int, size: int, expected: list[int]) -> None:
    assert snapshot_steps(steps, size) == expected
