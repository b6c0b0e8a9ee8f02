"""Checkpoints: one safetensors file with a JSON state in its header; never pickle."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


def save_checkpoint(file: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write atomically: readers find the old file or the new one, whole."""
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.part")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, temporary, metadata={"state": json.dumps(state)})
    temporary.replace(file)


def load_checkpoint(
    file: Path, fingerprint: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state; None where there is no usable checkpoint of this very training."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            state = json.loads((opened.metadata() or {})["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as err:
        log.warning("checkpoint %s is damaged (%s); training starts anew", file, err)
        return None
    if state.get("fingerprint") != fingerprint:
        log.warning("checkpoint %s is of another training; training starts anew", file)
        return None
    return tensors, state
