"""The optimizers a plan may name, and what of one goes into a checkpoint."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_factory.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from lora_factory.contracts.training import TrainPlan

log = logging.getLogger(__name__)
BETAS = (0.9, 0.99)


def make_optimizer(plan: TrainPlan, parameters: Sequence[Parameter]) -> Optimizer:
    """The plan's optimizer over the adapter's weights.

    ``parameters`` come as lora_A, lora_B, lora_A, …; with LoRA+ the second of each pair learns
    ``lora_plus`` times as fast (a group's ``lr_ratio``).

    Raises:
        ConfigurationError: the package of the optimizer is not installed.
    """
    import torch

    options = plan.options
    groups: list[dict[str, Any]] = [{"params": list(parameters), "lr_ratio": 1.0}]
    if options.lora_plus != 1:
        groups = [
            {"params": list(parameters[0::2]), "lr_ratio": 1.0},
            {"params": list(parameters[1::2]), "lr_ratio": options.lora_plus},
        ]
    common: dict[str, Any] = {"lr": base_rate(plan), "weight_decay": plan.weight_decay}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=BETAS, **common)
    made: Optimizer
    if options.optimizer == "adamw8bit":
        made = _installed("bitsandbytes.optim", "bitsandbytes").AdamW8bit(
            groups, betas=BETAS, **common
        )
    else:
        made = _installed("prodigyopt", "prodigyopt").Prodigy(
            groups, betas=BETAS, use_bias_correction=True, safeguard_warmup=True, **common
        )
    return made


def base_rate(plan: TrainPlan) -> float:
    """What the schedule scales: the plan's rate; 1 for Prodigy, which multiplies its own."""
    return 1.0 if plan.options.optimizer == "prodigy" else plan.learning_rate


def _installed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as err:
        msg = (
            f"the plan's optimizer needs the package {package}, which is not installed here; "
            f"install it (pip install {package}) or choose optimizer adamw"
        )
        raise ConfigurationError(msg) from err


def pack(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and as what JSON holds."""
    import torch

    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, slots in whole["state"].items():
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{slot}"] = value
            else:
                plain.setdefault(str(index), {})[slot] = value
    groups = [
        {name: _number(value) for name, value in group.items() if name != "params"}
        for group in whole["param_groups"]
    ]
    return tensors, {"groups": groups, "plain": plain}


def unpack(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Give a fresh optimizer of the same plan the state that :func:`pack` took."""
    slots: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, _, slot = rest.partition(".")
            slots.setdefault(int(number), {})[slot] = value
    for number, values in state["plain"].items():
        slots.setdefault(int(number), {}).update(values)
    present = optimizer.state_dict()["param_groups"]
    groups = [{**new, **old} for new, old in zip(present, state["groups"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _number(value: Any) -> Any:
    """Numbers that an optimizer keeps as tensors, as numbers."""
    import torch

    return value.item() if isinstance(value, torch.Tensor) else value
