"""The gate on what is written: a file must do what the adapter in memory does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.errors import TrainingError
from lora_factory.train.sampling import cut_batch

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.train.sampling import Batch

SHOWN = 2
"""Items of a batch that both predict."""
RELOADED = "reloaded"


def check_reload(base: DiffusionBase, name: str, file: Path, batch: Batch) -> float:
    """Load a LoRA file beside the adapter it was written from, and compare predictions.

    Every key of the file is consumed (``read_lora`` refuses leftovers). The adapter is active
    afterwards, as before.

    Returns:
        The largest absolute difference of any number predicted.

    Raises:
        TrainingError: it is 0.001 or more (0.02 in half precision, whose rounding is coarser).
        ModelError: the file can't be loaded.
    """
    import torch

    limit = 1e-3 if base.dtype == torch.float32 else 2e-2
    part = cut_batch(batch, slice(SHOWN))
    noised, _ = base.add_noise(part.latents, part.noise, part.timesteps)

    def predicted() -> Tensor:
        with torch.no_grad():
            return base.predict(noised, part.timesteps, part.text, part.sizes).float()

    base.use_adapter(name)
    ours = predicted()
    base.load_adapter(RELOADED, file)
    try:
        base.use_adapter(RELOADED)
        difference = float((ours - predicted()).abs().max())
    finally:
        base.drop_adapter(RELOADED)
        base.use_adapter(name)
    if not difference < limit:  # NaN fails too
        msg = (
            f"{file.name} does not do what was trained: predictions differ by {difference:.4f}, "
            f"{limit:g} is allowed; nothing was released, train again"
        )
        raise TrainingError(msg)
    return difference
