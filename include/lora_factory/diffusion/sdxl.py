"""Family ``sdxl``: Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952).

Two text encoders, whose penultimate states the UNet attends to side by side; the second one's
pooled output and six sizes (section 2.2 there) are added to its time embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_factory.diffusion.base import Text
from lora_factory.diffusion.latent import LatentBase
from lora_factory.diffusion.parts import Loader, Parts
from lora_factory.models.loaders import device as best_device

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.models.profiles import BaseEntry

FIRST, SECOND, POOLED = "text_encoder", "text_encoder_2", "pooled"
"""The encoders, and their outputs' names."""
SIZES = 6
HEADER = {
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_v2": "False",
}
ASPECT_STEP = 64
"""SDXL was trained on sides that are multiples of 64 pixels (appendix I)."""


def load(entry: BaseEntry, *, device: str | None = None) -> SdxlBase:
    """Load, check and place a base. See :func:`lora_factory.diffusion.families.load_base`."""
    loader = Loader(entry, device := device or best_device())
    loader.check_kind("StableDiffusionXLPipeline")
    parts = Parts({
        "tokenizer": loader.tokenizer,
        "tokenizer_2": lambda: loader.tokenizer("tokenizer_2"),
        FIRST: loader.text_encoder,
        SECOND: lambda: loader.text_encoder(SECOND, projection=True),
        "vae": loader.vae,
        "unet": loader.denoiser,
        "scheduler": loader.scheduler,
    })
    zeros = bool(loader.index("force_zeros_for_empty_prompt"))
    return SdxlBase(entry, device, parts, empty_is_zero=zeros)


class SdxlBase(LatentBase):
    """A loaded SDXL shaped base.

    ``empty_is_zero``: an empty prompt is zeros, not what the encoders say of it. The authors'
    base learned without a text that way, so it is what guidance and caption dropout need.
    """

    encoders = (FIRST, SECOND)

    def __init__(
        self, entry: BaseEntry, device: str, parts: Parts, *, empty_is_zero: bool = True
    ) -> None:
        super().__init__(entry, device, parts, HEADER, sgm=True)
        self._empty_is_zero = empty_is_zero

    @classmethod
    def _misfit(cls, parts: Parts) -> str:
        unet, second = parts["unet"].config, parts[SECOND].config
        width = parts[FIRST].config.hidden_size + second.hidden_size
        if unet.cross_attention_dim != width:
            return f"UNet expects text {unet.cross_attention_dim} wide, its encoders give {width}"
        if unet.addition_embed_type != "text_time":
            return f"its UNet adds {unet.addition_embed_type!r} to the time, not text and sizes"
        added = second.projection_dim + SIZES * unet.addition_time_embed_dim
        if unet.projection_class_embeddings_input_dim != added:
            expected = unet.projection_class_embeddings_input_dim
            return f"UNet expects {expected} numbers beside the text, its encoder and sizes {added}"
        return ""

    def _make_pipeline(self, parts: Parts) -> Any:
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline(
            vae=parts["vae"],
            text_encoder=parts[FIRST],
            text_encoder_2=parts[SECOND],
            tokenizer=parts["tokenizer"],
            tokenizer_2=parts["tokenizer_2"],
            unet=parts["unet"],
            scheduler=parts["scheduler"],
            add_watermarker=False,  # the guard room marks what is made
        )

    @property
    def side_multiple(self) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return ASPECT_STEP if self.entry.resolution % ASPECT_STEP == 0 else super().side_multiple

    @property
    def text_encoder_hash(self) -> str:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return f"{super().text_encoder_hash}-{self._empty_is_zero}"

    def encode_texts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        found = super().encode_texts(prompts)
        if self._empty_is_zero:
            empty = torch.tensor([not prompt for prompt in prompts], device=self.device)
            for rows in found.values():
                rows[empty] = 0.0
        return found

    def _read(self, name: str, encoder: Any, tokens: Tensor) -> dict[str, Tensor]:
        said = encoder(tokens, output_hidden_states=True)
        states = {name: said.hidden_states[-2]}
        return states | {POOLED: said.text_embeds} if name == SECOND else states

    def _condition(
        self, text: Text, latents: Tensor, sizes: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        if sizes is None:
            height, width = (side * self._pipeline.vae_scale_factor for side in latents.shape[2:])
            row = (height, width, 0, 0, height, width)
            sizes = latents.new_tensor([row]).expand(len(latents), SIZES)
        pooled = text[POOLED].to(self.dtype)
        return _states(text).to(self.dtype), {
            "text_embeds": pooled,
            "time_ids": sizes.to(pooled.device).float(),
        }

    def _arguments(self, text: Text, negative: Text) -> dict[str, Tensor]:
        return {
            "prompt_embeds": _states(text).to(self.dtype),
            "pooled_prompt_embeds": text[POOLED].to(self.dtype),
            "negative_prompt_embeds": _states(negative).to(self.dtype),
            "negative_pooled_prompt_embeds": negative[POOLED].to(self.dtype),
        }


def _states(text: Text) -> Tensor:
    """n×tokens×(d1 + d2)."""
    import torch

    return torch.cat([text[FIRST], text[SECOND]], dim=-1)
