"""Which file implements which family."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from lora_factory.errors import ModelError

if TYPE_CHECKING:
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.models.profiles import BaseEntry

FAMILIES = {
    "sd1": "lora_factory.diffusion.sd1:load",
    "sdxl": "lora_factory.diffusion.sdxl:load",
}


def load_base(entry: BaseEntry, *, device: str | None = None) -> DiffusionBase:
    """Load a base by its family, onto ``device`` (None: the best this machine has).

    Raises:
        ModelError: files missing, damaged, of another shape, or of an unknown family.
    """
    if entry.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        msg = f"base {entry.name!r}: unknown family {entry.family!r}; this version knows: {known}"
        raise ModelError(msg)
    module, _, function = FAMILIES[entry.family].partition(":")
    load = getattr(importlib.import_module(module), function)
    return cast("DiffusionBase", load(entry, device=device))
