"""The learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_factory.contracts.training import TrainPlan

EPOCH_DECAY = 0.95  # article, 3.2: × 0.95 for each epoch after the warm-up


def lr_factor(turn: int, plan: TrainPlan) -> float:
    """Share of the learning rate at ``turn`` of ``plan.steps`` (from 0).

    A linear warm-up, then half a cosine, the article's decay (5.2 and 3.2: × 0.95 a whole epoch),
    or no change.
    """
    if turn < plan.warmup_steps:
        return (turn + 1) / (plan.warmup_steps + 1)
    later = turn - plan.warmup_steps
    if plan.options.schedule == "constant":
        return 1.0
    if plan.options.schedule == "decay":
        return EPOCH_DECAY ** int(later / epoch_turns(plan))
    done = later / max(1, plan.steps - plan.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def epoch_turns(plan: TrainPlan) -> float:
    """Turns (plan-sized batches) in which an epoch's images are shown, ``repeats`` included."""
    shown = plan.measurements.size * plan.repeats
    return max(1.0, shown / (plan.batch_size * plan.gradient_accumulation))
