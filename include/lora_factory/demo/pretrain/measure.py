"""What the models are worth on icons that they never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_factory.demo.pretrain.augment import to_unit
from lora_factory.demo.pretrain.parts import SCHEDULE, TOKENS

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.demo.pretrain.icons import Icons

AMONG = 256  # icons that a caption is looked for in
DRAWS = 4  # noise levels an icon


def vae_psnr(vae: Any, held: Icons, device: str) -> float:
    """Peak signal-to-noise ratio of decoded latents, dB."""
    import torch

    images = to_unit(held.pixels).to(device)
    with torch.inference_mode():
        made = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    error = float((made - images).square().mean())
    return float(10 * torch.log10(torch.tensor(4.0 / error)))


def clip_recall(clip: Any, tokenizer: Any, held: Icons, device: str) -> dict[str, float]:
    """Share of captions whose icon is the nearest, or among five, of at most 256."""
    import torch

    count = min(AMONG, len(held))
    names = [f"{name} icon" for name in held.names[:count]]
    with torch.inference_mode():
        found = clip(
            input_ids=_tokens(tokenizer, names).to(device),
            pixel_values=to_unit(held.pixels[:count]).to(device),
        ).logits_per_text
    order = found.argsort(dim=1, descending=True)
    right = [
        {at for at in range(count) if held.names[at] == held.names[row]} for row in range(count)
    ]
    ranks = [
        next(place for place, at in enumerate(order[row].tolist()) if at in right[row])
        for row in range(count)
    ]
    return {f"recall@{within}": sum(rank < within for rank in ranks) / count for within in (1, 5)}


def unet_loss(unet: Any, text: Any, tokenizer: Any, vae: Any, held: Icons, device: str) -> float:
    """v-prediction loss over evenly spread timesteps and fixed noise; 1 is knowing nothing."""
    import torch
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler(**SCHEDULE)
    draw = torch.Generator().manual_seed(0)
    losses = []
    with torch.inference_mode():
        latents = vae.encode(to_unit(held.pixels).to(device)).latent_dist.mean
        latents = latents * vae.config.scaling_factor
        captions = [f"{name} icon" for name in held.names]
        said = text(_tokens(tokenizer, captions).to(device))[0]
        for number in range(DRAWS):
            times = (torch.arange(len(held)) * DRAWS + number) * 997 % 1000
            noise = torch.randn(latents.shape, generator=draw).to(device)
            noised = schedule.add_noise(latents, noise, times.to(device))
            wanted = schedule.get_velocity(latents, noise, times.to(device))
            made = unet(noised, times.to(device), said).sample
            losses.append(float((made - wanted).square().mean()))
    return sum(losses) / len(losses)


def _tokens(tokenizer: Any, captions: list[str]) -> Tensor:
    found: Tensor = tokenizer(
        captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return found
