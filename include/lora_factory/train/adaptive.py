"""Adaptive architecture (article, 6.1): trained at a high rank, kept at the rank each layer needs.

Which layers need how many ranks shows in the spectrum of what they learned. They are cut by one
share of energy (``diffusion.truncate``), the smallest at which the fixed validation probe still
has what training gained, but for a margin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.training import Truncation
from lora_factory.diffusion.lora_file import write_lora
from lora_factory.diffusion.truncate import rank_header, truncate

if TYPE_CHECKING:
    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger(__name__)
MARGIN = 0.02  # of what training gained on the probe
LOOKS = 7  # probes: energies within 1 / 128
CUT = "cut"


def adapt_rank(
    base: DiffusionBase, name: str, file: Path, before: float, probe: Callable[[], float]
) -> Truncation:
    """Cut a LoRA file's layers to the ranks that the probe needs, and write it anew.

    Args:
        base: has the adapter ``name``, which is active on it before and afterwards.
        name: what ``file`` was written from.
        file: the whole LoRA.
        before: the probe's loss without a LoRA.
        probe: the loss with the active adapter.

    Returns:
        What was cut; energy 1 where nothing could be.
    """
    base.use_adapter(name)
    whole = base.read_adapter(file)
    trial = file.with_name(f"{CUT}.safetensors")
    full = probe()
    bound = full + MARGIN * max(before - full, 0.0)
    low, kept, loss = 0.0, 1.0, full
    for _ in range(LOOKS):
        energy = (low + kept) / 2
        write_lora(trial, truncate(whole.layers, energy), whole.metadata)
        base.load_adapter(CUT, trial)
        try:
            base.use_adapter(CUT)
            found = probe()
        finally:
            base.drop_adapter(CUT)
            base.use_adapter(name)
        if found <= bound:
            kept, loss = energy, found
        else:  # NaN, too
            low = energy
    trial.unlink()
    size = file.stat().st_size
    layers = truncate(whole.layers, kept)
    if kept < 1.0:
        ranks = {name: int(pair.down.shape[0]) for name, pair in layers.items()}
        write_lora(file, layers, rank_header(whole.metadata, layers))
    else:
        ranks = {name: int(pair.down.shape[0]) for name, pair in whole.layers.items()}
    log.info(
        "ranks cut to %d … %d (energy %.3f): %d kB of %d, probe %.4f, %.4f whole",
        min(ranks.values()),
        max(ranks.values()),
        kept,
        file.stat().st_size // 1000,
        size // 1000,
        loss,
        full,
    )
    return Truncation(
        energy=kept,
        ranks=ranks,
        bytes_before=size,
        bytes_after=file.stat().st_size,
        probe_before=full,
        probe_after=loss,
    )
