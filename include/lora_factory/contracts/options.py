"""How a LoRA is trained beyond the article's plan: what changes weights is off unless asked for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_factory.contracts.base import Contract

Optimizer = Literal["adamw", "adamw8bit", "prodigy"]
AdapterKind = Literal["lora", "rslora"]


class TrainOptions(Contract):
    """Part of a :class:`TrainPlan`; the defaults are plain LoRA training with AdamW."""

    adapter: AdapterKind = Field(
        "lora", description="rslora: scale alpha / √rank instead of alpha / rank (2312.03732)"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the inputs of each LoRA layer")
    optimizer: Optimizer = Field(
        "adamw", description="adamw8bit needs bitsandbytes; prodigy (2306.06101) finds its own rate"
    )
    lora_plus: float = Field(
        1.0, ge=1, le=64, description="Learning rate of lora_B against lora_A's (LoRA+, 2402.12354)"
    )
    schedule: Literal["cosine", "decay", "constant"] = Field(
        "cosine", description="After the warm-up; decay: × 0.95 an epoch (article, 3.2)"
    )
    grow_batch: bool = Field(
        default=False,
        description="Every 5 epochs twice the images a step where gradients are small (article, "
        "3.2), and √2 times the learning rate",
    )
    crops: int = Field(1, ge=1, le=5, description="Of each image; further ones lie in its corners")
    tag_shuffles: int = Field(
        0, ge=0, le=8, description="Further orders of each caption's tags after the first"
    )
    noise_offset: float = Field(
        0.0, ge=0, le=1, description="Of each channel's mean, so that dark and light are learnt"
    )
    sparsity: float = Field(
        0.0, ge=0, lt=1, description="Share of the LoRA's weights that end as zero (article, 5.2)"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Less memory for about a third more time"
    )
    on_overfit: Literal["stop", "regularise"] = Field(
        "stop", description="regularise: restore the best weights and go on once, held tighter"
    )
    max_gpu_minutes: float | None = Field(
        None, gt=0, description="Training that takes longer ends in order, with its best weights"
    )

    samples: int = Field(
        3, ge=0, le=8, description="Pictures drawn at each of up to six looks on the way; 0: none"
    )
    adaptive_rank: bool = Field(
        default=False,
        description="Trained at the plan's rank, then each layer cut to what the probe needs "
        "(article, 6.1)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.optimizer == "prodigy" and self.lora_plus != 1:
            msg = "prodigy finds one rate for all weights; leave lora_plus at 1"
            raise ValueError(msg)
        return self


class TrainingAction(Contract):
    """What a training did about something it saw, and what it saw."""

    step: int = Field(ge=0)
    what: Literal["overfit", "collapse", "memory", "batch", "time", "request"]
    did: str = Field(description="In words")
    evidence: dict[str, float] = Field(default_factory=dict)
