"""Builds: a denoiser with one LoRA in its weights, in another form, in place of the base's own.

A pipeline keeps calling what it takes for its denoiser; :class:`StandIn` hands the call to the
build's engine, and everything else to the denoiser it stands for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lora_factory.contracts.optimise import BuildInfo
from lora_factory.diffusion.engines import graph, tensorrt
from lora_factory.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from lora_factory.models.profiles import BaseEntry

BUILD_FILE = "build.json"
Engine = Callable[[Mapping[str, "Tensor"]], "Tensor"]
"""Named inputs (:func:`named_inputs`) → what the denoiser predicts."""


def named_inputs(
    sample: Tensor, timestep: Any, text: Tensor, added: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A denoiser's call as named tensors, in the order that a graph takes them.

    ``latents`` n×c×h×w, ``timestep`` one number, ``text`` n×tokens×d; SDXL's ``pooled`` n×d and
    ``sizes`` n×6 besides.
    """
    import torch

    time = torch.as_tensor(timestep).reshape(-1)[0].to(torch.int64).to(sample.device)
    found = {"latents": sample, "timestep": time, "text": text}
    if added:
        found |= {"pooled": added["text_embeds"], "sizes": added["time_ids"]}
    return found


class StandIn:
    """A denoiser to a pipeline, an engine to itself."""

    def __init__(self, denoiser: Any, engine: Engine) -> None:
        self._denoiser, self._engine = denoiser, engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor]:
        """As diffusers' UNet2DConditionModel with ``return_dict=False``."""
        inputs = named_inputs(sample, timestep, encoder_hidden_states, added_cond_kwargs)
        return (self._engine(inputs).to(sample.dtype),)


def plain_copy(denoiser: Any) -> Any:
    """A copy of a denoiser as its weights are now, without the adapters' hooks."""
    copied = copy.deepcopy(denoiser)
    for module in copied.modules():
        module._forward_hooks.clear()
    return copied.eval().requires_grad_(False)


def by_position(denoiser: Module) -> Module:
    """A denoiser that takes :func:`named_inputs` by position and gives one tensor."""
    import torch

    class Plain(torch.nn.Module):  # type: ignore[misc]  # torch is Any to mypy here
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = denoiser

        def forward(
            self,
            latents: Tensor,
            timestep: Tensor,
            text: Tensor,
            pooled: Tensor | None = None,
            sizes: Tensor | None = None,
        ) -> Tensor:
            added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
            made: Tensor = self.denoiser(
                latents, timestep, text, added_cond_kwargs=added, return_dict=False
            )[0]
            return made

    return Plain().eval()


def read_build(folder: Path, entry: BaseEntry) -> BuildInfo:
    """What a build is; refuses those of another base.

    Raises:
        ModelError: ``build.json`` is missing or damaged, or it was made from another base.
    """
    try:
        info = BuildInfo.model_validate_json((folder / BUILD_FILE).read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"{folder / BUILD_FILE} can't be read; make the build again"
        raise ModelError(msg) from err
    if (info.base, info.base_revision) != (entry.name, entry.resolve_revision()):
        msg = f"the build is of base {info.base!r}, not of this {entry.name!r}; make it again"
        raise ModelError(msg)
    return info


def open_engine(folder: Path, info: BuildInfo, denoiser: Module, device: str) -> Engine:
    """What runs a build of ``denoiser``.

    Raises:
        ModelError: the file is damaged, or fits neither this base nor this machine.
        ConfigurationError: what runs it isn't installed.
    """
    file = folder / info.file
    if info.form == "graph":
        return graph.open_graph(file, device)
    if info.form == "engine":
        return tensorrt.open_engine(file, info.device)
    if info.form == "weights":
        return _open_weights(file, denoiser, compiled=info.compiled)
    msg = f"a build of form {info.form} is a LoRA file: load it as one"
    raise ModelError(msg)


def _open_weights(file: Path, denoiser: Module, *, compiled: bool) -> Engine:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    own = plain_copy(denoiser)
    try:
        own.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as err:
        msg = f"weights {file.name} don't fit this base: {str(err).splitlines()[0]}; build again"
        raise ModelError(msg) from err
    plain: Any = by_position(own)
    if compiled:
        # ``dynamic``: one compilation for every batch size.
        plain = torch.compile(plain, dynamic=True)

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = plain(*inputs.values())
        return made

    return run
