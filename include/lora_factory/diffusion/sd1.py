"""Family ``sd1``: Stable Diffusion 1.x and 2.x shaped bases (Rombach et al. 2022).

CLIPTextModel, AutoencoderKL, UNet2DConditionModel and a scheduler, each read from its
subfolder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_factory.diffusion.base import Text
from lora_factory.diffusion.latent import LatentBase
from lora_factory.diffusion.parts import Loader, Parts
from lora_factory.models.loaders import device as best_device

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.models.profiles import BaseEntry

TEXT_ENCODER = "text_encoder"
"""The one text encoder, and its output's name."""
V2_WIDTH = 1024
"""Of OpenCLIP ViT-H's text states, which tell a 2.x base from a 1.x."""


def load(entry: BaseEntry, *, device: str | None = None) -> Sd1Base:
    """Load, check and place a base. See :func:`lora_factory.diffusion.families.load_base`."""
    loader = Loader(entry, device := device or best_device())
    loader.check_kind("StableDiffusionPipeline")
    parts = Parts({
        "tokenizer": loader.tokenizer,
        TEXT_ENCODER: loader.text_encoder,
        "vae": loader.vae,
        "unet": loader.denoiser,
        "scheduler": loader.scheduler,
    })
    return Sd1Base(entry, device, parts)


class Sd1Base(LatentBase):
    """A loaded Stable Diffusion 1.x or 2.x shaped base."""

    encoders = (TEXT_ENCODER,)

    def __init__(self, entry: BaseEntry, device: str, parts: Parts) -> None:
        second = parts["unet"].config.cross_attention_dim == V2_WIDTH
        side = "768-v" if parts["scheduler"].config.prediction_type == "v_prediction" else "512"
        header = {
            "modelspec.architecture": f"stable-diffusion-{f'v2-{side}' if second else 'v1'}/lora",
            "ss_base_model_version": "sd_v2" if second else "sd_v1",
            "ss_v2": str(second),
        }
        super().__init__(entry, device, parts, header, sgm=False)

    @classmethod
    def _misfit(cls, parts: Parts) -> str:
        unet, width = parts["unet"].config, parts[TEXT_ENCODER].config.hidden_size
        if unet.cross_attention_dim != width:
            return f"UNet expects text {unet.cross_attention_dim} wide, its encoder gives {width}"
        return "its UNet wants more than a text" if unet.addition_embed_type else ""

    def _make_pipeline(self, parts: Parts) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=parts["vae"],
            text_encoder=parts[TEXT_ENCODER],
            tokenizer=parts["tokenizer"],
            unet=parts["unet"],
            scheduler=parts["scheduler"],
            safety_checker=None,  # the guard room checks what is made
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _read(self, name: str, encoder: Any, tokens: Tensor) -> dict[str, Tensor]:
        return {name: encoder(tokens)[0]}

    def _condition(
        self,
        text: Text,
        latents: Tensor,  # noqa: ARG002 - SDXL's
        sizes: Tensor | None,  # noqa: ARG002 - SDXL's
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return text[TEXT_ENCODER].to(self.dtype), None

    def _arguments(self, text: Text, negative: Text) -> dict[str, Tensor]:
        return {
            "prompt_embeds": text[TEXT_ENCODER].to(self.dtype),
            "negative_prompt_embeds": negative[TEXT_ENCODER].to(self.dtype),
        }
