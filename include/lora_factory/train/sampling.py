"""What each step sees: images, flips, noise, timesteps, dropped captions.

Every draw follows from the plan's seed and the step's number alone, so that a resumed run
sees what an uninterrupted one would, with no generator state to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.train.data import Split

PROBE_DRAWS = 32  # (image, timestep, noise) triples of a validation probe, at least


@dataclass(frozen=True)
class Batch:
    """n clean latents with everything the loss needs; ``indices`` into the split."""

    latents: Tensor
    text: Tensor
    noise: Tensor
    timesteps: Tensor
    indices: list[int]


class Sampler:
    """Training batches by step number."""

    def __init__(self, plan: TrainPlan, split: Split, base: DiffusionBase) -> None:
        self._plan, self._split, self._base = plan, split, base
        self._empty = base.encode_prompts([""])

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step ``step`` (from 0): all its micro-batches together."""
        import torch

        plan, split = self._plan, self._split
        size = plan.batch_size * plan.gradient_accumulation
        draw = _generator(plan.seed, 1, step)
        indices = self._indices(step * size, size)
        flip = (torch.rand(size, generator=draw) < 0.5 * plan.flip).long()
        shape = (size, *split.mean.shape[2:])
        fresh = torch.randn(shape, generator=draw).to(split.mean.device)
        rows = torch.tensor(indices)
        latents = split.mean[flip, rows] + split.std[flip, rows] * fresh
        noise = torch.randn(shape, generator=draw).to(split.mean.device)
        # Stratified: one timestep from each of n equal parts of the schedule, in random order.
        parts = torch.randperm(size, generator=draw) + torch.rand(size, generator=draw)
        timesteps = (parts / size * self._base.train_timesteps).long()
        dropped = torch.rand(size, generator=draw) < plan.caption_dropout
        text = torch.where(
            dropped[:, None, None].to(split.text.device), self._empty, split.text[rows]
        )
        return Batch(latents, text, noise, timesteps.to(latents.device), indices)

    def _indices(self, start: int, count: int) -> list[int]:
        """Items ``start`` … of an endless row of permutations, one a pass over the split."""
        import torch

        n = len(self._split)
        orders: dict[int, list[int]] = {}
        found = []
        for position in range(start, start + count):
            lap = position // n
            if lap not in orders:
                draw = _generator(self._plan.seed, 2, lap)
                orders[lap] = torch.randperm(n, generator=draw).tolist()
            found.append(orders[lap][position % n])
        return found


def probe_batch(split: Split, base: DiffusionBase) -> Batch:
    """A fixed batch over a split: the same triples whenever it is asked for (DVAR, 2302.04841).

    Upright images, captions kept, timesteps spread evenly. Two splits of one base get the
    same timesteps and noise, so that their losses compare.
    """
    import torch

    count = max(PROBE_DRAWS, min(len(split), 2 * PROBE_DRAWS))
    rows = torch.arange(count) % len(split)
    noise = torch.randn((count, *split.mean.shape[2:]), generator=_generator(0, 3, 0))
    timesteps = ((torch.arange(count) + 0.5) / count * base.train_timesteps).long()
    device = split.mean.device
    return Batch(
        split.mean[0, rows], split.text[rows], noise.to(device), timesteps.to(device), rows.tolist()
    )


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of at most ``size`` items, in order."""
    for at in range(0, len(batch.indices), size):
        cut = slice(at, at + size)
        yield Batch(
            batch.latents[cut],
            batch.text[cut],
            batch.noise[cut],
            batch.timesteps[cut],
            batch.indices[cut],
        )


def _generator(seed: int, purpose: int, number: int) -> Generator:
    """A CPU generator of its own for each purpose and number.

    Mixed to 32 bits here, since torch's CPU generator ignores the upper half of a seed.
    """
    import numpy as np
    import torch

    mixed = np.random.SeedSequence([abs(seed), purpose, number]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
