"""How a training is held at present, and what it changes when something goes wrong.

Each change is a pure function from one course to the next; the loop logs it with its evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lora_factory.contracts.base import Contract

if TYPE_CHECKING:
    from lora_factory.contracts.training import TrainPlan

MOST_BATCHES = 8
MOST_CALMED = 2
REGULARISED_DROPOUT = 0.1
MORE_CAPTION_DROPOUT = 0.1
MOST_CAPTION_DROPOUT = 0.5
MORE_DECAY = 4.0
LEAST_DECAY = 0.1
SLOWER = 0.5
INJECTED_NOISE = 0.1


class Course(Contract):
    """Part of a checkpoint.

    ``batches``: plan-sized batches in an optimizer step; ``since``: step of the last change, so
    that only what was seen after it counts against it.
    """

    learning_rate_scale: float = Field(1.0, gt=0)
    weight_decay: float = Field(ge=0)
    caption_dropout: float = Field(ge=0, le=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, description="Added to clean latents, of their deviation")
    micro_batch: int = Field(ge=1)
    batches: int = Field(1, ge=1)
    checkpointing: bool = False
    regularised: int = Field(0, ge=0)
    calmed: int = Field(0, ge=0)
    since: int = Field(0, ge=0)


def first_course(plan: TrainPlan) -> Course:
    """As the plan says."""
    return Course(
        weight_decay=plan.weight_decay,
        caption_dropout=plan.caption_dropout,
        dropout=plan.options.dropout,
        micro_batch=plan.batch_size,
        checkpointing=plan.options.gradient_checkpointing,
    )


def regularise(course: Course, step: int) -> Course:
    """Held tighter after overfitting (article, 3.2 ``activate_regularization``)."""
    dropout = min(MOST_CAPTION_DROPOUT, course.caption_dropout + MORE_CAPTION_DROPOUT)
    return course.model_copy(
        update={
            "weight_decay": min(1.0, max(LEAST_DECAY, MORE_DECAY * course.weight_decay)),
            "caption_dropout": max(course.caption_dropout, dropout),
            "dropout": max(course.dropout, REGULARISED_DROPOUT),
            "learning_rate_scale": course.learning_rate_scale * SLOWER,
            "regularised": course.regularised + 1,
            "since": step + 1,
        }
    )


def calm(course: Course, step: int) -> Course:
    """Slower and noisier after a collapse (article, 3.2 ``adjust_lr``, ``inject_noise``)."""
    return course.model_copy(
        update={
            "learning_rate_scale": course.learning_rate_scale * SLOWER,
            "noise": course.noise + INJECTED_NOISE,
            "calmed": course.calmed + 1,
            "since": step + 1,
        }
    )


def grow(course: Course) -> Course:
    """Twice the batch, √2 times the rate (Adam's rule: Malladi et al. 2022, arXiv 2205.10287)."""
    return course.model_copy(
        update={
            "batches": 2 * course.batches,
            "learning_rate_scale": course.learning_rate_scale * 2**0.5,
        }
    )


def shrink(course: Course) -> Course | None:
    """Half the images at a time and twice as often; then gradient checkpointing; then None."""
    if course.micro_batch > 1:
        return course.model_copy(update={"micro_batch": course.micro_batch // 2})
    if not course.checkpointing:
        return course.model_copy(update={"checkpointing": True})
    return None
