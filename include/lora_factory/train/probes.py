"""Fixed looks at both splits: what the monitor judges a training by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_factory.diffusion.objective import autocast, denoising_loss, split_prediction
from lora_factory.train.monitor import ProbePoint
from lora_factory.train.sampling import Batch, cut_batch, probe_batches, split_batch

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.train.data import Split

DRAWN = 8  # pictures drawn from noise at each look
LEVELS = (0.999, 0.8, 0.55, 0.3)  # noise levels of a short DDIM: what a picture shows, no detail
POOLED = 4  # pictures are compared as 4 × 4 patches of latents
FEWEST = 4  # pictures whose likeness says something
NOTHING = 1e-3  # deviation of latents that are all the same


class Probes:
    """The draws of both splits, the same whenever they are measured."""

    def __init__(
        self, plan: TrainPlan, base: DiffusionBase, train: Split, validation: Split
    ) -> None:
        self._plan, self._base = plan, base
        self._train = probe_batches(train, base)
        self._validation = probe_batches(validation, base)

    @property
    def images(self) -> tuple[list[int], list[int]]:
        """Which image each draw shows, of both splits."""
        train, validation = (
            [index for batch in batches for index in batch.indices]
            for batches in (self._train, self._validation)
        )
        return train, validation

    def measure(self, step: int, size: int) -> ProbePoint:
        """Both splits' losses with the weights that the adapter has now, ``size`` draws a pass."""
        import torch

        with torch.no_grad():
            train, validation = (
                self._seen(batches, size) for batches in (self._train, self._validation)
            )
            spread, length = self._likeness(self._validation[0])
        return ProbePoint(
            step,
            _mean(train),
            _mean(validation),
            tuple(x for part in train for x in part.tolist()),
            tuple(x for part in validation for x in part.tolist()),
            spread,
            length,
        )

    def validation(self, size: int) -> float:
        """The validation loss alone."""
        import torch

        with torch.no_grad():
            return _mean(self._seen(self._validation, size))

    def _seen(self, batches: Sequence[Batch], size: int) -> list[Tensor]:
        return [self._losses(part) for batch in batches for part in split_batch(batch, size)]

    def _losses(self, batch: Batch) -> Tensor:
        """One loss a draw."""
        with autocast(self._base.device, self._plan.mixed_precision):
            return denoising_loss(
                self._base,
                batch.latents,
                batch.text,
                batch.noise,
                batch.timesteps,
                self._plan.min_snr_gamma,
                sizes=batch.sizes,
            ).cpu()

    def _likeness(self, batch: Batch) -> tuple[float, float]:
        """How much pictures drawn for captions differ, and how large their latents are.

        Against the true pictures of these captions: 1 is as they.
        """
        from torch.nn.functional import adaptive_avg_pool2d

        firsts = [batch.indices.index(index) for index in dict.fromkeys(batch.indices)][:DRAWN]
        if len(firsts) < FEWEST:
            return 1.0, 1.0
        shown = cut_batch(batch, firsts)
        drawn, true = (
            adaptive_avg_pool2d(x.float(), POOLED) for x in (self._draw(shown), shown.latents)
        )
        shares = []
        for measure in (_variance, _square):
            now, ought = (float(measure(x)) ** 0.5 for x in (drawn, true))
            shares.append(now / ought if ought > NOTHING else 1.0)  # alike data: nothing to lose
        return shares[0], shares[1]

    def _draw(self, batch: Batch) -> Tensor:
        """Clean latents from a batch's noise and text alone, by DDIM in a few steps."""
        import torch

        base = self._base
        clean, noise = torch.zeros_like(batch.latents), batch.noise
        for level in LEVELS:
            times = base.timesteps(torch.full((len(batch),), level)).to(noise.device)
            noised, _ = base.add_noise(clean, noise, times)
            if level == LEVELS[0]:
                noised = noise
            with autocast(base.device, self._plan.mixed_precision):
                predicted = base.predict(noised, times, batch.text, batch.sizes)
            clean, noise = split_prediction(base, noised, predicted, times)
        return clean


def _mean(parts: Sequence[Tensor]) -> float:
    # Summed part by part, as a mean over the whole would round otherwise.
    return float(sum(part.sum() for part in parts)) / sum(map(len, parts))


def _variance(x: Tensor) -> Tensor:
    return x.var(dim=0, correction=0).mean()


def _square(x: Tensor) -> Tensor:
    return x.square().mean()
