"""LoRA adapters beside a denoiser's weights: another one for each sample of a batch, if wanted.

peft switches one adapter on for a whole batch, or loops over the adapters in every layer. Here
the low-rank factors of a batch's samples are stacked, so that one batched product a layer (a
grouped convolution where the layer is one) applies all of them, as S-LoRA does for language
models (Sheng et al. 2023, arXiv 2311.03285). The weights themselves are never changed, except
by :meth:`AdapterBank.fuse`, which keeps a copy to return to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lora_factory.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from lora_factory.diffusion.lora_file import LoraFile, Pair


class Worn(NamedTuple):
    """An adapter at a strength."""

    name: str
    strength: float = 1.0


class AdapterBank:
    """Keeps adapters and applies them through hooks on the layers that they change.

    Args:
        layers: name → linear layer or convolution of the denoiser.
    """

    def __init__(self, layers: Mapping[str, Module]) -> None:
        self._layers = dict(layers)
        self._kept: dict[str, dict[str, Pair]] = {}
        self._hooked: set[str] = set()
        self._active: dict[str, _Factors] = {}
        self._pristine: dict[str, Tensor] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def add(self, name: str, source: LoraFile) -> None:
        """Keep an adapter, in the layers' precision and on their device."""
        kept = {}
        for layer, pair in source.layers.items():
            weight: Any = self._layers[layer].weight
            # Copied: safetensors maps the file, and one that is written over would kill us.
            kept[layer] = type(pair)(*(part.to(weight, copy=True) for part in pair))
            if layer not in self._hooked:
                self._hooked.add(layer)
                self._layers[layer].register_forward_hook(self._hook(layer))
        self._kept[name] = kept

    def drop(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        self._kept.pop(name, None)

    def size(self, name: str) -> int:
        """Bytes an adapter takes."""
        pairs = self._kept[name].values()
        return sum(part.nbytes for pair in pairs for part in pair)

    def wear(self, rows: Sequence[Worn | None]) -> None:
        """Give each sample of the coming batches its adapter; None: the base's own output.

        A batch may be a multiple of ``rows`` (classifier-free guidance doubles it): they then
        repeat. All rows alike fit a batch of any size. No rows, or only None: nothing is applied.

        Raises:
            ModelError: an adapter isn't kept.
        """
        for row in rows:
            if row is not None and row.name not in self._kept:
                msg = f"no adapter {row.name!r} is loaded; load it first"
                raise ModelError(msg)
        self._active = {}
        alike = rows[:1] if len(set(rows)) == 1 else rows
        touched = {layer for row in alike if row is not None for layer in self._kept[row.name]}
        for layer in touched:
            pairs = [
                None if row is None else _scaled(self._kept[row.name].get(layer), row.strength)
                for row in alike
            ]
            self._active[layer] = _factors(self._layers[layer], pairs)

    def fuse(self, name: str, strength: float = 1.0) -> None:
        """Add an adapter to the weights: it then costs no time in a step.

        Raises:
            ModelError: it isn't kept, or another one is fused.
        """
        import torch

        if name not in self._kept or self._pristine:
            msg = f"adapter {name!r} isn't loaded, or another one is fused; load, or unfuse first"
            raise ModelError(msg)
        with torch.no_grad():
            for layer, pair in self._kept[name].items():
                weight: Any = self._layers[layer].weight
                self._pristine[layer] = weight.detach().clone()
                change = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
                weight.add_((strength * change).view(weight.shape).to(weight))

    def unfuse(self) -> None:
        """Put the weights back, bit for bit."""
        import torch

        with torch.no_grad():
            for layer, weight in self._pristine.items():
                found: Any = self._layers[layer].weight
                found.copy_(weight)
        self._pristine = {}

    def _hook(self, layer: str) -> Any:
        def apply(_module: Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            factors = self._active.get(layer)
            return None if factors is None else factors.add(inputs[0], output)

        return apply


def _scaled(pair: Pair | None, strength: float) -> Pair | None:
    return pair if pair is None or strength == 1.0 else pair._replace(up=pair.up * strength)


class _Factors(Protocol):
    """The update of one layer."""

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        """output + up · down · input."""


class _Shared:
    """One adapter for all samples."""

    def __init__(self, layer: Module, pair: Pair) -> None:
        self._layer: Any = layer
        self._down, self._up = pair

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        from torch.nn import functional

        if self._down.ndim == 2:
            return output + functional.linear(functional.linear(inputs, self._down), self._up)
        layer = self._layer
        low = functional.conv2d(
            inputs, self._down, None, layer.stride, layer.padding, layer.dilation
        )
        return output + functional.conv2d(low, self._up)


class _Stacked:
    """An adapter for each sample; missing ones and lower ranks are filled with zeros."""

    def __init__(self, layer: Module, pairs: Sequence[Pair | None]) -> None:
        import torch

        self._layer: Any = layer
        weight = self._layer.weight
        rank = max(pair.down.shape[0] for pair in pairs if pair is not None)
        self._down = weight.new_zeros((len(pairs), rank, *weight.shape[1:]))
        self._up = weight.new_zeros((len(pairs), weight.shape[0], rank))
        for row, pair in enumerate(pairs):
            if pair is not None:
                used = pair.down.shape[0]
                self._down[row, :used] = pair.down
                self._up[row, :, :used] = pair.up.flatten(1)
        if self._down.ndim == 3:  # as a linear layer's product wants them
            self._down, self._up = (t.mT.contiguous() for t in (self._down, self._up))
        self._tiles: dict[int, tuple[Tensor, Tensor]] = {1: (self._down, self._up)}
        self._torch = torch

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        down, up = self._tiled(inputs.shape[0])
        if down.ndim == 3:
            rows = (inputs.shape[0], -1)
            flat = output.reshape(*rows, output.shape[-1])
            low = self._torch.bmm(inputs.reshape(*rows, inputs.shape[-1]), down)
            return self._torch.baddbmm(flat, low, up).view_as(output)
        layer, count = self._layer, inputs.shape[0]
        low = self._torch.nn.functional.conv2d(
            inputs.reshape(1, -1, *inputs.shape[2:]),
            down.flatten(0, 1),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            groups=count,
        )
        low = low.reshape(count, up.shape[2], -1)
        return self._torch.baddbmm(output.flatten(2), up, low).view_as(output)

    def _tiled(self, count: int) -> tuple[Tensor, Tensor]:
        times, rest = divmod(count, self._down.shape[0])
        if rest:
            msg = f"a batch of {count} is no multiple of the {self._down.shape[0]} adapters worn"
            raise ModelError(msg)
        if times not in self._tiles:
            tiles = (part.repeat(times, *[1] * (part.ndim - 1)) for part in self._tiles[1])
            self._tiles[times] = (next(tiles), next(tiles))
        return self._tiles[times]


def _factors(layer: Module, pairs: Sequence[Pair | None]) -> _Factors:
    if len(pairs) == 1 and pairs[0] is not None:
        return _Shared(layer, pairs[0])
    return _Stacked(layer, pairs)
