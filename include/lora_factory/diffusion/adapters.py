"""peft adapters on a denoiser, whatever its family: how they are held while they train."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module


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
