"""The components of a base's folder: loaded when first asked for, released, loaded again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.errors import ModelError
from lora_factory.models.loaders import pretrained

if TYPE_CHECKING:
    from torch import dtype as torch_dtype

    from lora_factory.models.profiles import BaseEntry


class Parts:
    """Name of a subfolder → what is loaded from it.

    Args:
        loaders: for each component what loads it, the same one each time.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]) -> None:
        self._loaders = dict(loaders)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._loaders[name]()
        return self._loaded[name]

    def release(self, *names: str) -> None:
        """Let go of components; they are loaded again when asked for."""
        for name in names:
            self._loaded.pop(name, None)


class Loader:
    """Loads components of one base onto a device."""

    def __init__(self, entry: BaseEntry, device: str) -> None:
        import torch

        self._entry, self._device = entry, device
        # Half precision is slow or missing on a CPU; weights stored so are widened there.
        self.dtype: torch_dtype = torch.float32 if device == "cpu" else getattr(torch, entry.dtype)

    def check_kind(self, pipeline: str) -> None:
        """Refuse a folder whose ``model_index.json`` names another pipeline.

        Raises:
            ModelError: it does, or can't be read.
        """
        entry, file = self._entry, Path(self._entry.location()) / "model_index.json"
        if not file.is_file():
            return
        try:
            found = json.loads(file.read_bytes()).get("_class_name")
        except (OSError, ValueError, AttributeError) as err:
            msg = f"base {entry.name!r}: {file} can't be read; fetch the model again"
            raise ModelError(msg) from err
        if found != pipeline:
            msg = (
                f"base {entry.name!r} is made for {found}, family {entry.family} for {pipeline}; "
                "correct the profile"
            )
            raise ModelError(msg)

    def index(self, key: str) -> Any:
        """A value of ``model_index.json``; None where there is none."""
        file = Path(self._entry.location()) / "model_index.json"
        return json.loads(file.read_bytes()).get(key) if file.is_file() else None

    def denoiser(self) -> Any:
        """The UNet."""
        from diffusers import UNet2DConditionModel

        return self._weights(UNet2DConditionModel.from_pretrained, "unet", torch_dtype=self.dtype)

    def vae(self) -> Any:
        """The VAE; in full precision where its folder says that half overflows (SDXL's does)."""
        import torch
        from diffusers import AutoencoderKL

        config = pretrained(AutoencoderKL.load_config, self._entry, subfolder="vae")
        overflows = self.dtype == torch.float16 and config.get("force_upcast", False)
        dtype = torch.float32 if overflows else self.dtype
        return self._weights(AutoencoderKL.from_pretrained, "vae", torch_dtype=dtype)

    def text_encoder(self, subfolder: str = "text_encoder", *, projection: bool = False) -> Any:
        """A CLIP text encoder."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        kind = CLIPTextModelWithProjection if projection else CLIPTextModel
        return self._weights(kind.from_pretrained, subfolder, dtype=self.dtype)

    def tokenizer(self, subfolder: str = "tokenizer") -> Any:
        """A CLIP tokenizer."""
        from transformers import CLIPTokenizer

        return pretrained(CLIPTokenizer.from_pretrained, self._entry, subfolder=subfolder)

    def scheduler(self) -> Any:
        """The scheduler class that the folder's config names."""
        import diffusers

        config = pretrained(diffusers.DDIMScheduler.load_config, self._entry, subfolder="scheduler")
        kind = getattr(diffusers, str(config.get("_class_name", "")), None)
        if kind is None or not hasattr(kind, "set_timesteps"):
            msg = (
                f"base {self._entry.name!r}: scheduler config names no diffusers scheduler; "
                "fetch it again"
            )
            raise ModelError(msg)
        return kind.from_config(config)

    def _weights(self, loader: Callable[..., Any], subfolder: str, **dtypes: Any) -> Any:
        entry = self._entry
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
        return model.to(self._device).eval().requires_grad_(False)


def fingerprint(module: Any, *more: str) -> str:
    """A hash of a model's weights and configuration, wherever they were loaded from.

    Args:
        module: a model of diffusers or transformers.
        more: what else decides its output.
    """
    import torch

    config = module.config
    found = config.to_diff_dict() if hasattr(config, "to_diff_dict") else dict(config)
    told = {k: v for k, v in found.items() if not k.startswith("_") and k not in MADE_BY}
    digest = hashlib.sha256(json.dumps([told, more], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


MADE_BY = frozenset({"transformers_version", "architectures", "dtype", "torch_dtype"})
"""What a configuration says of how it was written rather than of the model."""
