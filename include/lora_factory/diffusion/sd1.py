"""Family ``sd1``: Stable Diffusion 1.x and 2.x shaped bases (Rombach et al. 2022).

CLIPTextModel, AutoencoderKL, UNet2DConditionModel and a scheduler, each read from its
subfolder. Adapters in training are peft LoRA layers on the UNet; those loaded from files are in
a bank beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.diffusion.adapters import set_dropout
from lora_factory.diffusion.bank import AdapterBank, Worn
from lora_factory.diffusion.base import GenerationRequest, OnStep, Text, TextProjection
from lora_factory.diffusion.builds import (
    StandIn,
    named_inputs,
    open_engine,
    plain_copy,
    read_build,
)
from lora_factory.diffusion.lora_file import LoraFile, Pair, read_lora, write_lora
from lora_factory.errors import Interrupted, ModelError
from lora_factory.models.loaders import device as best_device
from lora_factory.models.loaders import pretrained

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module, Parameter

    from lora_factory.models.profiles import BaseEntry

log = logging.getLogger(__name__)
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}  # config value → modelspec's word
ENCODE_BATCH = 16
TEXT_ENCODER = "text_encoder"
"""Name of the one text encoder's output, for a text projection."""


@dataclass(frozen=True)
class Parts:
    """The components of a base, as loaded."""

    tokenizer: Any
    text_encoder: Any
    vae: Any
    unet: Any
    scheduler: Any


def load(entry: BaseEntry, *, device: str | None = None) -> Sd1Base:
    """Load, check and place a base. See :func:`lora_factory.diffusion.families.load_base`."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    device = device or best_device()
    # Half precision is slow or missing on a CPU; weights stored so are widened there.
    dtype = torch.float32 if device == "cpu" else getattr(torch, entry.dtype)

    def weights(loader: Callable[..., Any], subfolder: str, **dtypes: Any) -> Any:
        options = {"subfolder": subfolder, "use_safetensors": True, "output_loading_info": True}
        if entry.variant:
            options["variant"] = entry.variant
        try:
            model, info = pretrained(loader, entry, **options, **dtypes)
        except ModelError as err:
            msg = f"base {entry.name!r}, {subfolder}: {err}"
            raise ModelError(msg) from err
        # diffusers fills missing weights at random with no more than a warning.
        lacking = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
        if lacking:
            msg = (
                f"base {entry.name!r}: {subfolder} lacks weights ({lacking[0]}, …); fetch it again"
            )
            raise ModelError(msg)
        return model.to(device).eval().requires_grad_(False)

    parts = Parts(
        tokenizer=pretrained(CLIPTokenizer.from_pretrained, entry, subfolder="tokenizer"),
        text_encoder=weights(CLIPTextModel.from_pretrained, "text_encoder", dtype=dtype),
        vae=weights(AutoencoderKL.from_pretrained, "vae", torch_dtype=dtype),
        unet=weights(UNet2DConditionModel.from_pretrained, "unet", torch_dtype=dtype),
        scheduler=_scheduler(entry),
    )
    return Sd1Base(entry, device, parts)


def _scheduler(entry: BaseEntry) -> Any:
    """The scheduler class that the folder's config names."""
    import diffusers

    config = pretrained(diffusers.DDIMScheduler.load_config, entry, subfolder="scheduler")
    kind = getattr(diffusers, str(config.get("_class_name", "")), None)
    if kind is None or not hasattr(kind, "set_timesteps"):
        msg = f"base {entry.name!r}: scheduler config names no diffusers scheduler; fetch it again"
        raise ModelError(msg)
    return kind.from_config(config)


class Sd1Base:
    """A loaded Stable Diffusion 1.x shaped base (:class:`lora_factory.diffusion.DiffusionBase`)."""

    def __init__(self, entry: BaseEntry, device: str, parts: Parts) -> None:
        import torch
        from diffusers import DDPMScheduler, StableDiffusionPipeline

        _check(entry, parts)
        self.entry = entry
        self.device = device
        self.dtype = parts.unet.dtype
        self._parts = parts
        self._prediction = parts.scheduler.config.prediction_type
        # The folder's scheduler samples; its noise schedule trains, through DDPM's formulas.
        self._schedule = DDPMScheduler.from_config(parts.scheduler.config)
        layers = {
            name: module
            for name, module in parts.unet.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
        self._shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
        self._bank = AdapterBank(layers)
        self._pipeline = StableDiffusionPipeline(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            unet=parts.unet,
            scheduler=parts.scheduler,
            safety_checker=None,  # the guard room checks what is made
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._trained: set[str] = set()
        self._builds: dict[str, StandIn] = {}
        self._active: tuple[str | None, float] = (None, 1.0)

    # -- encoding

    def encode_texts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        found = []
        tokenizer, encoder = self._parts.tokenizer, self._parts.text_encoder
        with torch.inference_mode():
            for start in range(0, len(prompts), 4 * ENCODE_BATCH):
                tokens = tokenizer(
                    list(prompts[start : start + 4 * ENCODE_BATCH]),
                    padding="max_length",
                    max_length=tokenizer.model_max_length,
                    truncation=True,
                    return_tensors="pt",
                )
                found.append(encoder(tokens.input_ids.to(self.device))[0].float())
        return {TEXT_ENCODER: torch.cat(found).clone()}

    def overlong(self, prompts: Sequence[str]) -> list[int]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        tokenizer = self._parts.tokenizer
        tokens = tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        return [row for row, ids in enumerate(tokens) if len(ids) > tokenizer.model_max_length]

    @property
    def side_multiple(self) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return _side(self._parts)

    @cached_property
    def image_encoder_hash(self) -> str:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return _fingerprint(self._parts.vae)

    @cached_property
    def text_encoder_hash(self) -> str:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return _fingerprint(self._parts.text_encoder, repr(self._parts.tokenizer.get_vocab()))

    def encode_images(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import numpy as np
        import torch

        vae = self._parts.vae
        means, stds = [], []
        with torch.inference_mode():
            for start in range(0, len(images), ENCODE_BATCH):
                part = [np.asarray(image) for image in images[start : start + ENCODE_BATCH]]
                pixels = torch.from_numpy(np.stack(part))
                pixels = pixels.to(self.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1.0
                posterior = vae.encode(pixels).latent_dist
                shift = vae.config.shift_factor or 0.0
                means.append((posterior.mean.float() - shift) * vae.config.scaling_factor)
                stds.append(posterior.std.float() * vae.config.scaling_factor)
        return torch.cat(means).clone(), torch.cat(stds).clone()

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
            made = self._pipeline(
                **self._texts(batch, text_projection),
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
                height=self.entry.resolution,
                width=self.entry.resolution,
                callback_on_step_end=after,
                callback_on_step_end_tensor_inputs=[],
            )
            images += made.images
        return images

    def _texts(
        self, batch: Sequence[GenerationRequest], projection: TextProjection | None
    ) -> dict[str, Any]:
        """The pipeline's arguments for the prompts: as text, or as changed embeddings."""
        prompts = [request.prompt for request in batch]
        negative = [request.negative_prompt for request in batch]
        if projection is None:
            return {"prompt": prompts, "negative_prompt": negative}
        changed = projection(prompts, self.encode_texts(prompts))
        return {
            "prompt_embeds": changed[TEXT_ENCODER],
            "negative_prompt_embeds": self.encode_texts(negative)[TEXT_ENCODER],
        }

    # -- adapters

    def add_adapter(
        self, name: str, rank: int, alpha: float, targets: Sequence[str], *, seed: int = 0
    ) -> list[Parameter]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch
        from peft import LoraConfig

        self._claim(name)
        ends = tuple(f".{target}" for target in targets)
        if not any(f".{layer}".endswith(ends) for layer in self._shapes):
            msg = (
                f"base {self.entry.name!r}: no layer is named {', '.join(targets)}; correct targets"
            )
            raise ModelError(msg)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        with torch.random.fork_rng(devices=[]), _several_adapters():
            torch.manual_seed(seed)
            self._parts.unet.add_adapter(config, name)
        self._trained.add(name)
        self.use_adapter(name)
        weights = [weight for _, down, up in self._layers(name) for weight in (down, up)]
        for weight in weights:  # trained in full precision whatever the base's
            weight.data = weight.data.float()
        return weights

    def set_dropout(self, name: str, share: float) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        set_dropout(self._parts.unet, name, share)

    @property
    def denoiser(self) -> Any:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return self._parts.unet

    def read_adapter(self, file: Path) -> LoraFile:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return read_lora(file, self._shapes)

    def copy_into_adapter(self, name: str, source: LoraFile) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        layers = self._layers(name)
        fits = {layer: down.shape for layer, down, _ in layers} == {
            layer: pair.down.shape for layer, pair in source.layers.items()
        }
        if not fits:
            msg = f"adapter {name!r} has other layers or ranks than the LoRA to go on from"
            raise ModelError(msg)
        with torch.no_grad():
            for layer, down, up in layers:
                down.copy_(source.layers[layer].down)
                up.copy_(source.layers[layer].up / self._scale(name))

    def load_adapter(self, name: str, file: Path) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._claim(name)
        self._bank.add(name, self.read_adapter(file))

    def adapter_size(self, name: str) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return self._bank.size(name)

    def use_adapter(self, name: str | None, strength: float = 1.0) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        unet = self._parts.unet
        if name in self._builds:
            if strength != 1.0:
                msg = f"build {name!r} has its LoRA in its weights: ask for strength 1"
                raise ModelError(msg)
            self._wear([])
            self._pipeline.unet = self._builds[name]
        elif name in self._trained:
            self._wear([])
            unet.enable_lora()
            unet.set_adapters([name], [strength])
        else:
            self._wear([] if name is None else [Worn(name, strength)])
        self._active = (name, strength)

    def _wear(self, rows: Sequence[Worn | None]) -> None:
        self._bank.wear(rows)
        self._parts.unet.disable_lora()
        self._pipeline.unet = self._parts.unet

    def fuse_adapter(self, name: str, strength: float = 1.0) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self.use_adapter(None)
        self._bank.fuse(name, strength)

    def unfuse_adapter(self) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._bank.unfuse()

    # -- builds

    def load_build(self, name: str, folder: Path) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        info = read_build(folder, self.entry)
        if info.form == "lora":
            self.load_adapter(name, folder / info.file)
            return
        self._claim(name)
        engine = open_engine(folder, info, self._parts.unet, self.device)
        self._builds[name] = StandIn(self._parts.unet, engine)

    def fused_denoiser(self, name: str) -> Module:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self.fuse_adapter(name)
        try:
            return plain_copy(self._parts.unet)
        finally:
            self.unfuse_adapter()

    def denoiser_example(self) -> dict[str, Tensor]:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        config = self._parts.unet.config
        side = self.entry.resolution // self._pipeline.vae_scale_factor
        latents = torch.zeros(2, config.in_channels, side, side)
        texts = self.encode_texts(["", ""])[TEXT_ENCODER]
        return named_inputs(latents.to(self.device, self.dtype), 500, texts.to(self.dtype))

    @property
    def denoiser_bytes(self) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return sum(weight.nbytes for weight in self._parts.unet.state_dict().values())

    def drop_adapter(self, name: str) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._bank.drop(name)
        self._builds.pop(name, None)
        if name in self._trained:
            with _several_adapters():
                self._parts.unet.delete_adapters(name)
            self._trained.remove(name)
        if self._active[0] == name:
            self._active = (None, 1.0)
        # peft makes another adapter active when one goes; ours is the word that counts.
        self.use_adapter(*self._active)

    def save_adapter(self, name: str, file: Path, metadata: dict[str, str]) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        layers = {
            layer: Pair(down.detach().float(), up.detach().float() * self._scale(name))
            for layer, down, up in self._layers(name)
        }
        rank = str(max(pair.down.shape[0] for pair in layers.values()))
        size = self.entry.resolution
        header = {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": file.stem,
            "modelspec.resolution": f"{size}x{size}",
            "modelspec.prediction_type": PREDICTIONS[self._prediction],
            "ss_base_model_version": "sd_v1",
            "ss_v2": "False",
            "ss_output_name": file.stem,
            "ss_network_module": "networks.lora",
            "ss_network_dim": rank,
            "ss_network_alpha": rank,
        }
        write_lora(file, layers, {**header, **metadata})

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
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Text,
        sizes: Tensor | None = None,  # noqa: ARG002 - SDXL's
    ) -> Tensor:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        dtype = self._parts.unet.dtype
        made: Tensor = self._parts.unet(
            latents.to(dtype), timesteps, text[TEXT_ENCODER].to(dtype), return_dict=False
        )[0]
        return made

    # -- inside

    def _claim(self, name: str) -> None:
        taken = name in self._trained or name in self._bank or name in self._builds
        if taken or not name or "." in name:
            msg = f"adapter name {name!r} is taken or unusable (no dots); drop it or choose another"
            raise ModelError(msg)

    def _scale(self, name: str) -> float:
        config = self._parts.unet.peft_config[name]
        return float(config.lora_alpha / config.r)

    def _layers(self, name: str) -> list[tuple[str, Parameter, Parameter]]:
        """(layer, lora_down, lora_up) of an adapter, in the UNet's order."""
        from peft.tuners.lora import LoraLayer

        return [
            (layer, module.lora_A[name].weight, module.lora_B[name].weight)
            for layer, module in self._parts.unet.named_modules()
            if isinstance(module, LoraLayer) and name in module.lora_A
        ]


@contextmanager
def _several_adapters() -> Iterator[None]:
    """Silence peft's warnings about several adapters on one model: here it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        yield


def _side(parts: Parts) -> int:
    """Pixels that VAE and UNet halve as often as they do."""
    halvings = (len(part.config.block_out_channels) - 1 for part in (parts.vae, parts.unet))
    return int(2 ** sum(halvings))


def _fingerprint(module: Any, *more: str) -> str:
    """sha256 of a model's weights and configuration, wherever they were loaded from."""
    import torch

    config = (
        {k: v for k, v in module.config.to_dict().items() if not k.startswith("_")}
        if hasattr(module.config, "to_dict")
        else {k: v for k, v in module.config.items() if not k.startswith("_")}
    )
    digest = hashlib.sha256(json.dumps([config, more], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _check(entry: BaseEntry, parts: Parts) -> None:
    """Refuse a base whose components don't fit each other."""
    unet, scheduler = parts.unet.config, parts.scheduler.config
    width = parts.text_encoder.config.hidden_size
    channels = parts.vae.config.latent_channels
    side = _side(parts)
    problem = ""
    if unet.cross_attention_dim != width:
        problem = f"UNet expects text {unet.cross_attention_dim} wide, its encoder gives {width}"
    elif unet.in_channels != channels:
        problem = f"UNet takes {unet.in_channels} channels, its VAE gives {channels}"
    elif scheduler.get("prediction_type") not in PREDICTIONS:
        problem = f"prediction type {scheduler.get('prediction_type')!r} can't be trained"
    elif entry.resolution % side:
        problem = f"resolution {entry.resolution} is no multiple of {side}"
    if problem:
        msg = f"base {entry.name!r} ({entry.location()}): {problem}; check the profile"
        raise ModelError(msg)
