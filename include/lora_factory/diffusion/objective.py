"""The loss a LoRA is trained on; tuning times it and training descends it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.diffusion.base import DiffusionBase, Text

Precision = Literal["no", "fp16", "bf16"]


def best_precision(device: str) -> Precision:
    """bf16 where the accelerator computes it, else fp16; full precision without one."""
    import torch

    if device != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: str, precision: Precision) -> AbstractContextManager[None]:
    """Run a forward pass in mixed precision."""
    import torch

    kinds = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    context = torch.autocast(device, dtype=kinds[precision], enabled=precision != "no")
    return cast("AbstractContextManager[None]", context)


def denoising_loss(
    base: DiffusionBase,
    latents: Tensor,
    text: Text,
    noise: Tensor,
    timesteps: Tensor,
    gamma: float | None = None,
    *,
    sizes: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the denoiser, one value an image (Ho et al. 2020; v: Salimans 2022).

    Args:
        base: the model with its active adapter.
        latents: n×c×h×w clean latents.
        text: n prompts' encodings.
        noise: n×c×h×w standard normal.
        timesteps: n noise levels, as ``base.timesteps`` gives them.
        gamma: min-SNR γ; None: every timestep weighs the same.
        sizes: n×6 pixels, see :meth:`DiffusionBase.predict`.

    Returns:
        n float32 values, ≥ 0.
    """
    noised, target = base.add_noise(latents, noise, timesteps)
    error = (base.predict(noised, timesteps, text, sizes).float() - target.float()).square()
    per_image: Tensor = error.mean(dim=(1, 2, 3)) * base.loss_weights(timesteps, gamma)
    return per_image


def split_prediction(
    base: DiffusionBase, noised: Tensor, predicted: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise that a prediction amounts to.

    Noised latents and target are both linear in latents and noise, whatever the family predicts
    (epsilon, v, velocity of a flow): two equations for two unknowns.
    """
    import torch

    one = torch.ones((len(noised), 1, 1, 1), device=noised.device)
    nothing = torch.zeros_like(one)
    a, c = base.add_noise(one, nothing, timesteps)
    b, d = base.add_noise(nothing, one, timesteps)
    # Positive: signal and noise in one, (signal + noise)², or the signal, which may be nearly 0.
    scale = (a * d - b * c).clamp_min(1e-3)
    predicted = predicted.float()
    return (d * noised - b * predicted) / scale, (a * predicted - c * noised) / scale
