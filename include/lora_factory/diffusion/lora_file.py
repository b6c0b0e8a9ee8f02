"""LoRA files: strict reading, and writing a file that every loader applies alike.

Written: the diffusers layout, ``unet.<layer>.lora_A.weight`` (r×in[×kh×kw]) and
``unet.<layer>.lora_B.weight`` (out×r[×1×1]), with alpha / rank folded into ``lora_B``, so
that alpha equals rank and a loader that ignores alpha still applies the trained strength.

Read: that layout and kohya's (``lora_unet_<layer with _>.lora_down.weight``, ``.lora_up``,
``.alpha``), denoiser only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lora_factory.diffusion.naming import sgm_name
from lora_factory.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

KOHYA = "lora_unet_"
DIFFUSERS = "unet."
SDXL = "stable-diffusion-xl"
MAX_RANK = 1024


class Pair(NamedTuple):
    """One layer's low-rank update: ``delta W = up @ down``, strength 1 included."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class LoraFile:
    """What a file holds: layer name → update, and the header's strings."""

    layers: dict[str, Pair]
    metadata: dict[str, str]

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        return max(int(pair.down.shape[0]) for pair in self.layers.values())


def read_lora(file: Path, shapes: Mapping[str, tuple[int, ...]], *, sgm: bool = False) -> LoraFile:
    """Read and check a LoRA for a denoiser whose layers have these weight ``shapes``.

    ``sgm``: the layers have the names that SDXL's authors gave them, too.

    Raises:
        ModelError: not safetensors, keys left over or unpaired, layers or shapes of another
            base, or values that aren't finite.
    """
    tensors, metadata = _open(file)
    parts: dict[str, dict[str, Tensor]] = {}
    names = {_kohya(name): name for name in shapes}
    if sgm:
        names |= {_kohya(sgm_name(name)): name for name in shapes}
    for key, tensor in tensors.items():
        layer, part = _split(key, names)
        if layer not in shapes or not part:
            msg = f"LoRA {file.name}: key {key!r} fits no layer of this base; use its own base"
            raise ModelError(msg)
        if not bool(tensor.isfinite().all()):
            msg = f"LoRA {file.name}: {key!r} holds NaN or Inf; train it again"
            raise ModelError(msg)
        parts.setdefault(layer, {})[part] = tensor.float()
    if not parts:
        msg = f"LoRA {file.name} holds no weights"
        raise ModelError(msg)
    return LoraFile(
        {layer: _pair(file, layer, found, shapes[layer]) for layer, found in parts.items()},
        metadata,
    )


def write_lora(file: Path, layers: Mapping[str, Pair], metadata: Mapping[str, str]) -> None:
    """Write ``layers`` atomically; adds ``sshs_model_hash`` (sha256 of the tensor bytes)."""
    tensors = {}
    for name, pair in layers.items():
        tensors[f"{DIFFUSERS}{name}.lora_A.weight"] = pair.down.contiguous().cpu()
        tensors[f"{DIFFUSERS}{name}.lora_B.weight"] = pair.up.contiguous().cpu()
    _write(file, tensors, metadata)


def write_kohya(source: Path, file: Path) -> None:
    """Write a LoRA file once more, in kohya's layout, as A1111, Forge and ComfyUI name layers.

    ``lora_unet_<layer with _>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``, which is
    the rank, so that loaders which divide by the rank and those which don't do the same. Layers
    of SDXL get its authors' names.

    Raises:
        ModelError: ``source`` isn't a LoRA in the diffusers layout.
    """
    import torch

    found, metadata = _open(source)
    sgm = metadata.get("modelspec.architecture", "").startswith(SDXL)
    tensors: dict[str, Tensor] = {}
    for key, tensor in found.items():
        layer, part = _split(key, {})
        if not layer:
            msg = f"LoRA {source.name}: key {key!r} is not of the diffusers layout"
            raise ModelError(msg)
        name = _kohya(sgm_name(layer) if sgm else layer)
        tensors[f"{name}.lora_{part}.weight"] = tensor
        if part == "down":
            tensors[f"{name}.alpha"] = torch.tensor(float(tensor.shape[0]), dtype=tensor.dtype)
    _write(file, tensors, metadata)


def _kohya(layer: str) -> str:
    return KOHYA + layer.replace(".", "_")


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Whole or not at all; with kohya's ``sshs_model_hash``."""
    from safetensors.torch import save

    plain = save(dict(tensors))
    body = plain[8 + int.from_bytes(plain[:8], "little") :]
    header = {"format": "pt", **metadata, "sshs_model_hash": hashlib.sha256(body).hexdigest()}
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(save(dict(tensors), metadata=header))
    part.replace(file)


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        msg = f"LoRA {file.name} is not a .safetensors file; no other format is read"
        raise ModelError(msg)
    try:
        with safe_open(str(file), framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except (SafetensorError, OSError) as err:
        msg = f"LoRA {file.name} can't be read as safetensors: {str(err).splitlines()[0]}"
        raise ModelError(msg) from err


def _split(key: str, kohya_names: Mapping[str, str]) -> tuple[str, str]:
    """Key → (layer, ``down`` | ``up`` | ``alpha``), or empty strings."""
    if key.startswith(KOHYA):
        stem, _, rest = key.partition(".")
        part = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}.get(rest, "")
        return kohya_names.get(stem, ""), part
    for suffix, part in ((".lora_A.weight", "down"), (".lora_B.weight", "up")):
        if key.startswith(DIFFUSERS) and key.endswith(suffix):
            return key[len(DIFFUSERS) : -len(suffix)], part
    return "", ""


def _pair(file: Path, layer: str, found: dict[str, Tensor], weight: tuple[int, ...]) -> Pair:
    """Check one layer's shapes and fold alpha / rank into ``up``."""
    if not {"down", "up"} <= found.keys():
        msg = f"LoRA {file.name}: layer {layer} has only half of its weights"
        raise ModelError(msg)
    down, up = found["down"], found["up"]
    rank = down.shape[0] if down.ndim else 0
    point = (1,) * (len(weight) - 2)  # a convolution's lora_up has a 1×1 kernel
    fits = down.shape == (rank, *weight[1:]) and up.shape == (weight[0], rank, *point)
    if not fits or not 1 <= rank <= MAX_RANK:
        msg = (
            f"LoRA {file.name}: layer {layer} is {tuple(down.shape)} × {tuple(up.shape)}, "
            f"this base needs weight {weight}; use its own base"
        )
        raise ModelError(msg)
    if "alpha" in found:
        if found["alpha"].numel() != 1:
            msg = f"LoRA {file.name}: layer {layer} has an alpha that is not one number"
            raise ModelError(msg)
        up = up * (found["alpha"].item() / rank)
    return Pair(down, up)
