"""The article's ``LoRATuner`` (3.1): formulas from measurements to a training plan.

Names and constants are the article's. Each method leaves in ``reasons`` why its value is
what it is; limits of the base (``max_rank``, its own targets and rate) are part of it.
What advice changed is in ``followed`` besides.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.options import TrainOptions
from lora_factory.contracts.records import Domain

if TYPE_CHECKING:
    from lora_factory.models.profiles import BaseEntry
    from lora_factory.tune.measure import DatasetMeasures

MIN_RANK, MAX_RANK = 4, 128
HIGHEST_RANK = 256  # TrainPlan.rank
TARGETS: dict[Domain, tuple[str, ...]] = {
    "art": ("to_k", "to_v", "to_q", "to_out.0"),
    "photo": ("proj_in", "proj_out", "conv"),
    "anime": ("to_k", "to_v", "ff.net.0.proj"),
}
BATCH = 16  # large enough for a steady gradient, small enough for many steps on a CPU
EPOCH_IMAGES = 300  # small sets are repeated to at least this many images an epoch
CAPTION_DROPOUT = 0.2
WEIGHT_DECAY = 0.01
TIME_SHARE = 0.8  # of the time allowed; the rest is caches, probes and checkpoints


class LoRATuner:
    """Recommends each value of a plan from what was measured."""

    def __init__(self, dataset: DatasetMeasures, entry: BaseEntry, advice: Advice) -> None:
        self.dataset = dataset
        self.entry = entry
        self.advice = advice
        self.reasons: dict[str, str] = {}
        self.followed: list[str] = []

    def calculate_rank(self) -> int:
        """clamp(4, 128, int(100 · (0.7 · semantic + 0.3 · visual))), ≤ max_rank, × advice.

        ``max_rank`` of the base bounds where attempts start, not where advice may lead: that
        is ``rank_limit``. Else advice to raise a rank that is at its cap would do nothing.
        """
        data = self.dataset
        complexity = data.semantic_diversity * 0.7 + data.visual_variance * 0.3
        rank = max(MIN_RANK, min(MAX_RANK, int(complexity * 100)))
        limited = min(rank, self.entry.max_rank)
        scale, bound = self.advice.rank_scale, limit_of_rank(self.entry)
        scaled = limited if scale == 1 else max(1, min(round(limited * scale), bound))
        reason = (
            f"complexity {complexity:.2f} = 0.7 × {data.semantic_diversity:.2f} "
            f"+ 0.3 × {data.visual_variance:.2f} gives {rank}"
        )
        if limited != rank:
            reason += f"; this base starts with at most {limited}"
        if scale != 1:
            reason += f"; advice × {scale:g} gives {scaled}"
            reason += f" (at most {bound} here)" if scaled == bound else ""
            self.followed.append(f"rank {scaled} instead of {limited} (× {scale:g})")
        self.reasons["rank"] = reason
        return scaled

    def calculate_alpha(self, rank: int) -> float:
        """alpha = rank: strength 1, which every loader applies whether it reads alpha or not."""
        self.reasons["alpha"] = "equal to the rank, so that every loader applies strength 1"
        return float(rank)

    def select_target_modules(self) -> tuple[str, ...]:
        """The article's choice by domain, unless the base brings its own."""
        if self.entry.targets:
            self.reasons["target_modules"] = f"base {self.entry.name!r} brings its own list"
            return self.entry.targets
        self.reasons["target_modules"] = f"the article's choice for domain {self.dataset.domain!r}"
        return TARGETS[self.dataset.domain]

    def select_base_model(self, asked: str | None) -> str:
        """The base asked for, else the profile's for this domain (chosen by the caller)."""
        self.reasons["base"] = (
            "asked for" if asked else f"the profile's base for domain {self.dataset.domain!r}"
        )
        return self.entry.name

    def calculate_lr(self) -> float:
        """rate of the base × (1 + 0.3 · log10(size)) × advice, rounded to 6 decimals.

        The article starts from 1e-5, a rate for full fine-tuning; a LoRA needs about ten
        times more (LoRA Without Regret, 2025) and how much depends on the base, so that
        the base's entry in the profile gives it.
        """
        growth = 1 + math.log10(self.dataset.size) * 0.3
        rate = round(self.entry.learning_rate * growth * self.advice.learning_rate_scale, 6)
        self.reasons["learning_rate"] = (
            f"{self.entry.learning_rate:g} of the base × {growth:.2f} by size"
        )
        rate = min(max(rate, 1e-6), 0.1)
        scale = self.advice.learning_rate_scale
        if scale != 1:
            self.reasons["learning_rate"] += f" × {scale:g} by advice"
            self.followed.append(f"learning rate {rate:g} (× {scale:g})")
        return rate

    def calculate_weight_decay(self) -> float:
        """0.01, AdamW's usual; more where advice finds the LoRA copying or straying.

        Decoupled decay shrinks the LoRA's change by about exp(−decay × Σ learning rates), a
        few to some tens of per cent over a training.
        """
        advised = self.advice.weight_decay
        if advised is None:
            self.reasons["weight_decay"] = "AdamW's usual"
            return WEIGHT_DECAY
        self.reasons["weight_decay"] = f"by advice, instead of {WEIGHT_DECAY:g}"
        self.followed.append(f"weight decay {advised:g} instead of {WEIGHT_DECAY:g}")
        return advised

    def choose_options(self) -> TrainOptions:
        """Plain training; where it overfits, it goes on once from its best, held tighter.

        Nothing else pays on every dataset; a run's spec may ask for more.
        """
        self.reasons["options"] = (
            "plain LoRA and AdamW; a training that overfits goes on once, with more regularisation"
        )
        return TrainOptions(on_overfit="regularise")

    def calculate_batch_size(self) -> int:
        """The largest power of two ≤ 16 that the training set fills at least twice."""
        batch = BATCH
        while batch > 1 and batch * 2 > self.dataset.size:
            batch //= 2
        self.reasons["batch_size"] = (
            f"at most {BATCH}, and {self.dataset.size} images fill it twice"
        )
        return batch

    def calculate_caption_dropout(self) -> float:
        """Guided sampling subtracts the empty prompt's image, which has to learn the style too.

        Tried on the embedded base (240 steps, rate 4e-3): style similarity anchored on real
        images was 0.93 with 0.1 and 0.95 with 0.2; with none (rate 2e-3) 0.90 against 0.93;
        0.35 gained nothing more.
        """
        self.reasons["caption_dropout"] = "guidance needs the style without a caption too"
        return CAPTION_DROPOUT

    def calculate_repeats(self) -> int:
        """How often an epoch shows each image: small sets are repeated to 300 images or more.

        "Epoch" in the article has no size; trainers' users count 200–400 image-repeats, so
        that 10 epochs of 100 images and of 300 images train alike.
        """
        repeats = math.ceil(EPOCH_IMAGES / self.dataset.size)
        self.reasons["repeats"] = (
            f"{self.dataset.size} images repeated to {EPOCH_IMAGES} or more an epoch"
        )
        return repeats

    def calculate_steps(
        self, epochs: int, images_per_step: int, seconds_per_image: float, max_minutes: float
    ) -> int:
        """epochs × repeats × size / images a step × advice, within the time allowed."""
        per_epoch = math.ceil(self.dataset.size * self.calculate_repeats() / images_per_step)
        steps = epochs * per_epoch
        affordable = int(max_minutes * 60 * TIME_SHARE / (seconds_per_image * images_per_step))
        self.reasons["steps"] = f"{epochs} epochs of {per_epoch} steps"
        scale = self.advice.steps_scale
        if scale != 1:
            plain, steps = steps, max(1, round(steps * scale))
            self.reasons["steps"] += f" × {scale:g} by advice"
            self.followed.append(f"{steps} steps instead of {plain} (× {scale:g})")
        if affordable < steps:
            steps = max(1, affordable)
            self.reasons["steps"] += f", cut to the {max_minutes:g} minutes allowed"
        return steps


def limit_of_rank(entry: BaseEntry) -> int:
    """The highest rank that advice may lead to on this base."""
    return entry.rank_limit or min(2 * entry.max_rank, HIGHEST_RANK)
