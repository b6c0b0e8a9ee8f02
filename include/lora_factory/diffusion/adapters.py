"""LoRA adapters on a denoiser, whatever its family.

Those in training are peft's LoRA layers on it; those loaded from files are in a bank beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.diffusion.bank import AdapterBank, Worn
from lora_factory.diffusion.builds import StandIn, open_engine, plain_copy, read_build
from lora_factory.diffusion.lora_file import LoraFile, Pair, read_lora, write_lora
from lora_factory.errors import ModelError

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

    from lora_factory.contracts.optimise import BuildInfo
    from lora_factory.models.profiles import BaseEntry


class AdapterHost:
    """The half of a base that holds adapters (:class:`lora_factory.diffusion.DiffusionBase`).

    Args:
        entry: the base's place in the profile.
        device: where it is.
        unet: the denoiser.
        header: what a LoRA file's header says of the family (modelspec, kohya's ``ss_*``).
        sgm: whether other programs name the denoiser's layers as SDXL's authors do.
    """

    def __init__(
        self, entry: BaseEntry, device: str, unet: Any, header: dict[str, str], *, sgm: bool = False
    ) -> None:
        import torch

        self.entry = entry
        self.device = device
        self.dtype = unet.dtype
        self._unet, self._header, self._sgm = unet, header, sgm
        layers = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
        self._shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
        self._bank = AdapterBank(layers)
        self._trained: set[str] = set()
        self._builds: dict[str, StandIn] = {}
        self._active: tuple[str | None, float] = (None, 1.0)
        self._running: Any = unet  # the denoiser, or the build that stands for it

    def add_adapter(
        self,
        name: str,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        *,
        seed: int = 0,
        rank_stabilized: bool = False,
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
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(targets), use_rslora=rank_stabilized
        )
        with torch.random.fork_rng(devices=[]), _several_adapters():
            torch.manual_seed(seed)
            self._unet.add_adapter(config, name)
        self._trained.add(name)
        self.use_adapter(name)
        weights = [weight for _, down, up in self._layers(name) for weight in (down, up)]
        for weight in weights:  # trained in full precision whatever the base's
            weight.data = weight.data.float()
        return weights

    def set_dropout(self, name: str, share: float) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        set_dropout(self._unet, name, share)

    @property
    def denoiser(self) -> Any:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return self._unet

    def read_adapter(self, file: Path) -> LoraFile:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return read_lora(file, self._shapes, sgm=self._sgm)

    def copy_into_adapter(self, name: str, source: LoraFile) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        import torch

        layers = self._layers(name)
        ranks = {layer: down.shape[0] for layer, down, _ in layers}
        lower = {layer: pair.down.shape[0] for layer, pair in source.layers.items()}
        if ranks.keys() != lower.keys() or any(lower[each] > ranks[each] for each in ranks):
            msg = f"adapter {name!r} has other layers or ranks than the LoRA to go on from"
            raise ModelError(msg)
        with torch.no_grad():
            for layer, down, up in layers:
                # Where the source has fewer ranks, the others begin as a fresh LoRA's do.
                down[: lower[layer]] = source.layers[layer].down
                up.zero_()
                up[:, : lower[layer]] = source.layers[layer].up / self._scale(name)

    def load_adapter(self, name: str, file: Path) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._claim(name)
        self._bank.add(name, self.read_adapter(file))

    def adapter_size(self, name: str) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return self._bank.size(name)

    def use_adapter(self, name: str | None, strength: float = 1.0) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        if name in self._builds:
            if strength != 1.0:
                msg = f"build {name!r} has its LoRA in its weights: ask for strength 1"
                raise ModelError(msg)
            self._wear([])
            self._running = self._builds[name]
        elif name in self._trained:
            self._wear([])
            self._unet.enable_lora()
            self._unet.set_adapters([name], [strength])
        else:
            self._wear([] if name is None else [Worn(name, strength)])
        self._active = (name, strength)

    def _wear(self, rows: Sequence[Worn | None]) -> None:
        self._bank.wear(rows)
        self._unet.disable_lora()
        self._running = self._unet

    def fuse_adapter(self, name: str, strength: float = 1.0) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self.use_adapter(None)
        self._bank.fuse(name, strength)

    def unfuse_adapter(self) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._bank.unfuse()

    def load_build(self, name: str, folder: Path) -> BuildInfo:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        info = read_build(folder, self.entry)
        if info.form == "lora":
            self.load_adapter(name, folder / info.file)
            return info
        self._claim(name)
        engine = open_engine(folder, info, self._unet, self.device)
        self._builds[name] = StandIn(self._unet, engine)
        return info

    def fused_denoiser(self, name: str) -> Module:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self.fuse_adapter(name)
        try:
            return plain_copy(self._unet)
        finally:
            self.unfuse_adapter()

    @property
    def denoiser_bytes(self) -> int:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        return sum(weight.nbytes for weight in self._unet.state_dict().values())

    def drop_adapter(self, name: str) -> None:
        """See :class:`lora_factory.diffusion.base.DiffusionBase`."""
        self._bank.drop(name)
        self._builds.pop(name, None)
        if name in self._trained:
            with _several_adapters():
                self._unet.delete_adapters(name)
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
            "modelspec.implementation": "diffusers",
            "modelspec.title": file.stem,
            "modelspec.resolution": f"{size}x{size}",
            "ss_output_name": file.stem,
            "ss_network_module": "networks.lora",
            "ss_network_dim": rank,
            "ss_network_alpha": rank,
        }
        write_lora(file, layers, {**header, **self._header, **metadata})

    # -- inside

    def _claim(self, name: str) -> None:
        taken = name in self._trained or name in self._bank or name in self._builds
        if taken or not name or "." in name:
            msg = f"adapter name {name!r} is taken or unusable (no dots); drop it or choose another"
            raise ModelError(msg)

    def _scale(self, name: str) -> float:
        config = self._unet.peft_config[name]
        return float(config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r))

    def _layers(self, name: str) -> list[tuple[str, Parameter, Parameter]]:
        """(layer, lora_down, lora_up) of an adapter, in the UNet's order."""
        from peft.tuners.lora import LoraLayer

        return [
            (layer, module.lora_A[name].weight, module.lora_B[name].weight)
            for layer, module in self._unet.named_modules()
            if isinstance(module, LoraLayer) and name in module.lora_A
        ]


@contextmanager
def _several_adapters() -> Iterator[None]:
    """Silence peft's warnings about several adapters on one model: here it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        yield


def set_dropout(denoiser: Module, name: str, share: float) -> None:
    """Drop a share of the inputs of each LoRA layer of an adapter; 0: none.

    The denoiser itself stays in evaluation mode: a frozen base has nothing to drop.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    for module in denoiser.modules():
        if isinstance(module, LoraLayer) and name in module.lora_dropout:
            module.lora_dropout[name] = (
                torch.nn.Dropout(share).train() if share else torch.nn.Identity()
            )
