"""Checkpoints: safetensors files with a JSON state in their header; never pickle.

The last two are kept, so that a damaged last one costs the steps between them and no more.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
KEPT = 2
PATTERN = "checkpoint-*.safetensors"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write atomically and through to the disk; then remove all but the last two."""
    from safetensors.torch import save_file

    file = folder / f"checkpoint-{step:08d}.safetensors"
    temporary = file.with_name(f".{file.name}.part")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, temporary, metadata={"state": json.dumps({**state, "step": step})})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(file)
    for old in sorted(folder.glob(PATTERN))[:-KEPT]:
        old.unlink(missing_ok=True)
    return file


def load_checkpoint(
    folder: Path, fingerprint: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest usable one of this very training, or None.

    Those that can't be used are removed: what follows would else be sorted behind them.
    """
    for file in sorted(folder.glob(PATTERN), reverse=True):
        found = _load(file)
        if found is None:
            log.warning("checkpoint %s is damaged; looking for the one before", file.name)
        elif found[1].get("fingerprint") != fingerprint:
            log.warning("checkpoint %s is of another training; it is removed", file.name)
        else:
            return found
        file.unlink(missing_ok=True)
    return None


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            state = json.loads((opened.metadata() or {})["state"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, state  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
        return None
