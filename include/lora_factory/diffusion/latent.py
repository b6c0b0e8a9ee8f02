"""What Stable Diffusion's families share: CLIP text encoders, a VAE, a UNet, a noise schedule.

A family (``sd1``, ``sdxl``) adds what its encoders say, what its UNet is told beside the text,
and which pipeline of diffusers samples it. Text encoders and VAE may leave memory
(:meth:`LatentBase.release_encoders`) and come back when they are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_factory.diffusion.adapters import AdapterHost
from lora_factory.diffusion.bank import Worn
from lora_factory.diffusion.base import GenerationRequest, OnStep, Text, TextProjection
from lora_factory.diffusion.builds import named_inputs
from lora_factory.diffusion.parts import Parts, fingerprint
from lora_factory.errors import Interrupted, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lora_factory.models.profiles import BaseEntry

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}  # config value → modelspec's word
TEXT_BATCH = 64
IMAGE_BATCH = 16
PIXELS = 1 << 22
"""Of the images that the VAE works on at a time: 4 of 1024 × 1024 in full precision take 10 GB."""


class LatentBase(AdapterHost, ABC):
    """A loaded base of a Stable Diffusion family (:class:`lora_factory.diffusion.DiffusionBase`).

    Args:
        entry: the base's place in the profile.
        device: where the parts are put.
        parts: ``unet``, ``vae``, ``scheduler`` and the family's encoders and tokenizers.
        header: what a LoRA file's header says of the family.
        sgm: see :class:`AdapterHost`.
    """

    encoders: tuple[str, ...]
    """Subfolders of the text encoders, each of which has a tokenizer."""

    def __init__(
        self, entry: BaseEntry, device: str, parts: Parts, header: dict[str, str], *, sgm: bool
    ) -> None:
        from diffusers import DDPMScheduler

        problem = self._misfit(parts) or _misfit(entry, parts)
        if problem:
            msg = f"base {entry.name!r} ({entry.location()}): {problem}; check the profile"
            raise ModelError(msg)
        self._parts = parts
        self._prediction = parts["scheduler"].config.prediction_type
        told = {"modelspec.prediction_type": PREDICTIONS[self._prediction]}
        super().__init__(entry, device, parts["unet"], {**header, **told}, sgm=sgm)
        # The folder's scheduler samples; its noise schedule trains, through DDPM's formulas.
        self._schedule = DDPMScheduler.from_config(parts["scheduler"].config)
        self._side = _side(parts)
        self._pipeline = self._make_pipeline(parts)
        self._pipeline.set_progress_bar_config(disable=True)
        # It gets encoded texts and gives latents: what it would do with these is done here.
        for name in ("vae", *self.encoders):
            setattr(self._pipeline, name, None)

    # -- what a family says

    @classmethod
    @abstractmethod
    def _misfit(cls, parts: Parts) -> str:
        """What doesn't fit between text encoders and UNet; empty: nothing."""

    @abstractmethod
    def _make_pipeline(self, parts: Parts) -> Any:
        """The pipeline of diffusers that samples the family."""

    @abstractmethod
    def _read(self, name: str, encoder: Any, tokens: Tensor) -> dict[str, Tensor]:
        """What one encoder says of n×t tokens, by the output's name."""

    @abstractmethod
    def _condition(
        self, text: Text, latents: Tensor, sizes: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """What the UNet attends to (n×tokens×d), and what it is told besides."""

    @abstractmethod
    def _arguments(self, text: Text, negative: Text) -> dict[str, Tensor]:
        """Encoded prompts as arguments of the pipeline."""

    # -- encoding

    def encode_texts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        found: dict[str, list[Tensor]] = {}
        with torch.inference_mode():
            for name in self.encoders:
                tokenizer, encoder = self._tokenizer(name), self._parts[name]
                for start in range(0, len(prompts), TEXT_BATCH):
                    tokens = tokenizer(
                        list(prompts[start : start + TEXT_BATCH]),
                        padding="max_length",
                        max_length=tokenizer.model_max_length,
                        truncation=True,
                        return_tensors="pt",
                    )
                    said = self._read(name, encoder, tokens.input_ids.to(self.device))
                    for output, rows in said.items():
                        found.setdefault(output, []).append(rows.float())
        return {output: torch.cat(rows).clone() for output, rows in found.items()}

    def overlong(self, prompts: Sequence[str]) -> list[int]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        found: set[int] = set()
        for name in self.encoders:
            tokenizer = self._tokenizer(name)
            limit = tokenizer.model_max_length
            tokens = tokenizer(list(prompts), truncation=False, verbose=False).input_ids
            found |= {row for row, ids in enumerate(tokens) if len(ids) > limit}
        return sorted(found)

    def encode_images(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import numpy as np
        import torch

        vae = self._parts["vae"]
        means, stds = [], []
        with torch.inference_mode():
            for part in _portions([np.asarray(image) for image in images], images[0].size):
                pixels = torch.from_numpy(np.stack(part))
                pixels = pixels.to(self.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1.0
                posterior = vae.encode(pixels).latent_dist
                shift = vae.config.shift_factor or 0.0
                means.append((posterior.mean.float() - shift) * vae.config.scaling_factor)
                stds.append(posterior.std.float() * vae.config.scaling_factor)
        return torch.cat(means).clone(), torch.cat(stds).clone()

    def _decode(self, latents: Tensor) -> list[Image]:
        """n latents, as the denoiser leaves them → n RGB images."""
        import torch

        vae, images = self._parts["vae"], []
        side = self.entry.resolution
        with torch.inference_mode():
            for part in _portions(latents, (side, side)):
                scaled = part.to(vae.dtype) / vae.config.scaling_factor
                made = vae.decode(scaled + (vae.config.shift_factor or 0.0), return_dict=False)[0]
                images += self._pipeline.image_processor.postprocess(made, output_type="pil")
        return images

    def release_encoders(self) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import gc

        import torch

        _ = self.image_encoder_hash, self.text_encoder_hash  # while there is something to read
        self._parts.release("vae", *self.encoders)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    @property
    def side_multiple(self) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return self._side

    @cached_property
    def image_encoder_hash(self) -> str:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return fingerprint(self._parts["vae"])

    @cached_property
    def text_encoder_hash(self) -> str:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return "-".join(
            fingerprint(self._parts[name], repr(sorted(self._tokenizer(name).get_vocab().items())))
            for name in self.encoders
        )

    def _tokenizer(self, encoder: str) -> Any:
        return self._parts[encoder.replace("text_encoder", "tokenizer")]

    # -- generation

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        steps: int,
        guidance: float,
        batch_size: int = 16,
        on_step: OnStep | None = None,
        text_projection: TextProjection | None = None,
        adapters: Sequence[Worn | None] | None = None,
    ) -> list[Image]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        images: list[Image] = []
        batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
        for number, batch in enumerate(batches):
            if adapters is not None:
                self._wear(adapters[number * batch_size :][: len(batch)])

            def after(_pipe: Any, step: int, _time: Any, state: Any, number: int = number) -> Any:
                # An exception, since the pipeline's own interrupt would still decode.
                if on_step and not on_step(number * steps + step + 1, len(batches) * steps):
                    msg = "generation was cancelled by its caller"
                    raise Interrupted(msg)
                return state

            # One CPU generator an image: its noise is the same in any batch, on any device.
            noise = [torch.Generator("cpu").manual_seed(request.seed) for request in batch]
            self._pipeline.unet = self._running
            made = self._pipeline(
                **self._texts(batch, text_projection),
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
                height=self.entry.resolution,
                width=self.entry.resolution,
                output_type="latent",
                callback_on_step_end=after,
                callback_on_step_end_tensor_inputs=[],
            )
            images += self._decode(made.images)
        return images

    def _texts(
        self, batch: Sequence[GenerationRequest], projection: TextProjection | None
    ) -> dict[str, Tensor]:
        """The pipeline's arguments for the prompts."""
        prompts = [request.prompt for request in batch]
        text: Text = self.encode_texts(prompts)
        if projection is not None:
            text = projection(prompts, text)
        negative = self.encode_texts([request.negative_prompt for request in batch])
        return self._arguments(text, negative)

    def denoiser_example(self) -> dict[str, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        config = self._unet.config
        side = self.entry.resolution // self._pipeline.vae_scale_factor
        latents = torch.zeros(2, config.in_channels, side, side)
        states, added = self._condition(self.encode_texts(["", ""]), latents, None)
        return named_inputs(latents.to(self.device, self.dtype), 500, states, added)

    # -- training

    def timesteps(self, fractions: Tensor) -> Tensor:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return (fractions * self._schedule.config.num_train_timesteps).long()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        noised = self._schedule.add_noise(latents, noise, timesteps)
        if self._prediction == "epsilon":
            return noised, noise
        return noised, self._schedule.get_velocity(latents, noise, timesteps)

    def loss_weights(self, timesteps: Tensor, gamma: float | None) -> Tensor:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        kept = self._schedule.alphas_cumprod.to(timesteps.device)[timesteps].float()
        if gamma is None:
            return torch.ones_like(kept)
        # min(SNR, γ) over SNR (or SNR + 1), with both multiplied by 1 − ᾱ so that the zero
        # and infinite SNR at the ends of a schedule stay finite.
        capped = torch.minimum(kept, gamma * (1.0 - kept))
        return capped / kept.clamp_min(1e-8) if self._prediction == "epsilon" else capped

    def predict(
        self, latents: Tensor, timesteps: Tensor, text: Text, sizes: Tensor | None = None
    ) -> Tensor:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        states, added = self._condition(text, latents, sizes)
        made: Tensor = self._unet(
            latents.to(self.dtype),
            timesteps,
            states,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return made


def _portions(items: Any, size: tuple[int, int]) -> Iterator[Any]:
    """Parts of a batch of images of ``size`` pixels that the VAE's memory holds."""
    count = max(1, min(IMAGE_BATCH, PIXELS // (size[0] * size[1])))
    for start in range(0, len(items), count):
        yield items[start : start + count]


def _side(parts: Parts) -> int:
    """Pixels that VAE and UNet halve as often as they do."""
    halvings = (len(parts[name].config.block_out_channels) - 1 for name in ("vae", "unet"))
    return int(2 ** sum(halvings))


def _misfit(entry: BaseEntry, parts: Parts) -> str:
    """What doesn't fit between VAE, UNet, scheduler and profile; empty: nothing."""
    unet, vae, scheduler = (parts[name].config for name in ("unet", "vae", "scheduler"))
    side = _side(parts)
    if unet.in_channels != vae.latent_channels:
        return f"UNet takes {unet.in_channels} channels, its VAE gives {vae.latent_channels}"
    if vae.get("latents_mean") is not None:
        return "its VAE's latents are scaled channel by channel, which this version can't"
    if scheduler.get("prediction_type") not in PREDICTIONS:
        return f"prediction type {scheduler.get('prediction_type')!r} can't be trained"
    if entry.resolution % side:
        return f"resolution {entry.resolution} is no multiple of {side}"
    return ""
