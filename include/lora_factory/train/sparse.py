"""Sparse training (article, 5.2): the adapter's smallest weights become zero while it trains.

Gradual magnitude pruning after Zhu & Gupta 2017 (arXiv 1710.01878): the share of zeros rises by a
cubic from the end of the warm-up to 70 % of the training, and what is zero then stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.contracts.training import TrainPlan

EVERY = 10
"""Steps between two rises of the share."""
END = 0.7
"""Of the training, when the whole share is reached."""


def share(plan: TrainPlan, step: int) -> float:
    """Share of zeros after ``step``."""
    last = max(plan.warmup_steps + 1, round(END * plan.steps))
    done = min(1.0, max(0.0, (step - plan.warmup_steps) / (last - plan.warmup_steps)))
    return plan.options.sparsity * (1 - (1 - done) ** 3)


def zeros(weights: Sequence[Tensor]) -> list[Tensor]:
    """Where the weights are zero now."""
    return [weight.detach() == 0 for weight in weights]


def prune(
    plan: TrainPlan,
    step: int,
    groups: tuple[Sequence[Tensor], Sequence[Tensor]],
    before: Sequence[Tensor],
) -> None:
    """Keep zero what was zero ``before`` the optimizer moved it; every 10th step zero more.

    ``groups``: the weights, and their average, which gets the same zeros. Nothing before the
    warm-up is over: lora_B starts as zeros and has to leave.
    """
    if step <= plan.warmup_steps:
        return
    weights, averages = groups
    rises = step % EVERY == 0 or step == plan.warmup_steps + 1
    for weight, average, held in zip(weights, averages, before, strict=True):
        if step == plan.warmup_steps + 1:
            held.zero_()
        weight.data.masked_fill_(held, 0)
        if rises:
            _zero_smallest(weight.data, share(plan, step))
        average.masked_fill_(weight.detach() == 0, 0)


def prune_to(wanted: float, weights: Sequence[Tensor]) -> None:
    """Zero the smallest of each tensor until a share of it is zero."""
    for weight in weights:
        _zero_smallest(weight, wanted)


def _zero_smallest(weight: Tensor, wanted: float) -> None:
    count = int(wanted * weight.numel())
    if count:
        flat = weight.view(-1)
        flat[flat.abs().argsort(stable=True)[:count]] = 0
