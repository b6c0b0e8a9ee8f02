"""The loss as a module that accelerate can wrap, and the noise that a course adds to batches."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lora_factory.diffusion.objective import autocast, denoising_loss
from lora_factory.train.sampling import Batch, generator

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase


def objective(base: DiffusionBase, plan: TrainPlan) -> Module:
    """A module from a :class:`Batch` to the loss of each image; it owns the denoiser."""
    import torch

    class Objective(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = base.denoiser

        def forward(self, batch: Batch) -> Tensor:
            with autocast(base.device, plan.mixed_precision):
                return denoising_loss(
                    base,
                    batch.latents,
                    batch.text,
                    batch.noise,
                    batch.timesteps,
                    plan.min_snr_gamma,
                    sizes=batch.sizes,
                )

    return Objective()


def perturbed(batch: Batch, offset: float, noise: float, draw: tuple[int, int]) -> Batch:
    """A batch with noise that has an ``offset`` a channel, and latents with ``noise`` on them.

    Offset noise after Guttenberg 2023: without it a base can't learn pictures that are dark or
    light as a whole. ``noise`` is a share of each image's own standard deviation. ``draw``: the
    plan's seed and the step, from which all follows.
    """
    import torch

    if not (offset or noise):
        return batch
    source = generator(draw[0], 5, draw[1])
    shape = batch.latents.shape
    shift = torch.randn((*shape[:2], 1, 1), generator=source).to(batch.noise)
    added = torch.randn(shape, generator=source).to(batch.latents)
    scale = noise * batch.latents.std(dim=(1, 2, 3), keepdim=True)
    return dataclasses.replace(
        batch, noise=batch.noise + offset * shift, latents=batch.latents + scale * added
    )
