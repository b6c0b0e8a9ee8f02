"""What each step sees: images, crops, flips, noise, timesteps, dropped captions.

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
    from lora_factory.diffusion.base import DiffusionBase, Text
    from lora_factory.train.data import Bucket, Split

PROBE_DRAWS = 32  # (image, timestep, noise) triples of a validation probe, at least


@dataclass(frozen=True)
class Batch:
    """n clean latents of one shape with everything the loss needs; ``indices`` into the split.

    ``sizes``: n×6 pixels (see ``DiffusionBase.predict``).
    """

    latents: Tensor
    text: Text
    noise: Tensor
    timesteps: Tensor
    indices: list[int]
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.indices)


class Sampler:
    """Training batches by step number, each from one aspect bucket, on the base's device."""

    def __init__(self, plan: TrainPlan, split: Split, base: DiffusionBase) -> None:
        self._plan, self._split, self._base = plan, split, base

    def batch(self, step: int, caption_dropout: float | None = None) -> Batch:
        """The batch of step ``step`` (from 0): all its micro-batches together.

        ``caption_dropout``: None: the plan's.
        """
        import torch

        plan, split, device = self._plan, self._split, self._base.device
        size = plan.batch_size * plan.gradient_accumulation
        draw = generator(plan.seed, 1, step)
        bucket, turn = self._bucket(step)
        places = self._places(bucket, turn * size, size)
        indices = [bucket.rows[place] for place in places]
        crops, flips = bucket.mean.shape[:2]
        flip = (torch.rand(size, generator=draw) < 0.5 * plan.flip).long().clamp_max(flips - 1)
        shape = (size, *bucket.mean.shape[3:])
        fresh = torch.randn(shape, generator=draw)
        noise = torch.randn(shape, generator=draw)
        # Stratified: one timestep from each of n equal parts of the schedule, in random order.
        parts = torch.randperm(size, generator=draw) + torch.rand(size, generator=draw)
        timesteps = self._base.timesteps(parts / size)
        share = plan.caption_dropout if caption_dropout is None else caption_dropout
        dropped = torch.rand(size, generator=draw) < share
        crop = torch.randint(crops, (size,), generator=draw)
        rows = torch.tensor(places)
        latents = bucket.mean[crop, flip, rows] + bucket.std[crop, flip, rows] * fresh
        variants = torch.randint(_variants(split), (size,), generator=draw)
        text = _captions(split, variants, torch.tensor(indices), dropped)
        return Batch(
            latents.to(device),
            {name: rows.to(device) for name, rows in text.items()},
            noise.to(device),
            timesteps.to(device),
            indices,
            bucket.sizes[crop, flip, rows].to(device),
        )

    def _bucket(self, step: int) -> tuple[Bucket, int]:
        """The bucket of a step, and how many earlier steps drew from it.

        In n steps, n images' worth, each bucket has as many turns as images: every image is
        seen equally often, whatever its bucket's size. Their order is drawn anew each n steps.
        """
        import torch

        buckets = self._split.buckets
        if len(buckets) == 1:
            return buckets[0], step
        lap, place = divmod(step, len(self._split))
        homes = torch.repeat_interleave(torch.tensor([len(bucket) for bucket in buckets]))
        order = homes[torch.randperm(len(homes), generator=generator(self._plan.seed, 4, lap))]
        number = int(order[place])
        earlier = int((order[:place] == number).sum())
        return buckets[number], lap * len(buckets[number]) + earlier

    def _places(self, bucket: Bucket, start: int, count: int) -> list[int]:
        """Items ``start`` … of an endless row of permutations, one a pass over the bucket."""
        import torch

        n = len(bucket)
        orders: dict[int, list[int]] = {}
        found = []
        for position in range(start, start + count):
            lap = position // n
            if lap not in orders:
                draw = generator(self._plan.seed, 2, lap)
                orders[lap] = torch.randperm(n, generator=draw).tolist()
            found.append(orders[lap][position % n])
        return found


def _variants(split: Split) -> int:
    return int(next(iter(split.text.values())).shape[0])


def _captions(split: Split, variants: Tensor, rows: Tensor, dropped: Tensor) -> dict[str, Tensor]:
    """Each output's rows of n captions; those ``dropped`` are the empty prompt's."""
    import torch

    found = {}
    for name, whole in split.text.items():
        lost = dropped.view(-1, *[1] * (whole.ndim - 2))
        found[name] = torch.where(lost, split.empty[name], whole[variants, rows])
    return found


def probe_batches(split: Split, base: DiffusionBase) -> list[Batch]:
    """Fixed batches over a split, one a bucket: the same triples whenever they are asked for.

    After DVAR (arXiv 2302.04841). Uncut upright images, captions kept, timesteps spread evenly.
    Two splits of one base get the same timesteps, and where they have the same shapes the same
    noise, so that their losses compare.
    """
    import torch

    count = max(PROBE_DRAWS, min(len(split), 2 * PROBE_DRAWS))
    shown = torch.arange(count) % len(split)
    timesteps = base.timesteps((torch.arange(count) + 0.5) / count)
    found = []
    for number, bucket in enumerate(split.buckets):
        place = {row: position for position, row in enumerate(bucket.rows)}
        drawn = torch.tensor([int(row) in place for row in shown])
        rows = shown[drawn]
        if not len(rows):  # a small bucket's only images lie beyond the probe
            continue
        places = torch.tensor([place[int(row)] for row in rows])
        mean = bucket.mean[0, 0, places]
        noise = torch.randn(mean.shape, generator=generator(0, 3, number))
        found.append(
            Batch(
                mean.to(base.device),
                {name: whole[0, rows].to(base.device) for name, whole in split.text.items()},
                noise.to(base.device),
                timesteps[drawn].to(base.device),
                rows.tolist(),
                bucket.sizes[0, 0, places].to(base.device),
            )
        )
    return found


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of at most ``size`` items, in order."""
    for at in range(0, len(batch), size):
        yield cut_batch(batch, slice(at, at + size))


def cut_batch(batch: Batch, cut: slice | list[int]) -> Batch:
    """Some of a batch's items, in order."""
    indices = batch.indices[cut] if isinstance(cut, slice) else [batch.indices[i] for i in cut]
    return Batch(
        batch.latents[cut],
        {name: rows[cut] for name, rows in batch.text.items()},
        batch.noise[cut],
        batch.timesteps[cut],
        indices,
        batch.sizes[cut],
    )


def seed_step(seed: int, step: int) -> None:
    """Seed torch's own generators, which dropout draws from, by the step's number."""
    import torch

    torch.manual_seed(generator(seed, 6, step).initial_seed())


def generator(seed: int, purpose: int, number: int) -> Generator:
    """A CPU generator of its own for each purpose and number.

    Mixed to 32 bits here, since torch's CPU generator ignores the upper half of a seed.
    """
    import numpy as np
    import torch

    mixed = np.random.SeedSequence([abs(seed), purpose, number]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
