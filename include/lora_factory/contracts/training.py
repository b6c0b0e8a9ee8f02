"""What tune decides and train reads, and what training writes down."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract, StageReport
from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.options import TrainingAction, TrainOptions
from lora_factory.contracts.records import Domain

StoppedBy = Literal["steps", "overfit", "collapse", "time", "request"]


class Measurements(Contract):
    """What the tuner measured of the dataset and of this machine."""

    size: int = Field(ge=1, description="Training images")
    semantic_diversity: float = Field(ge=0, le=1, description="Of captions; 0: all the same")
    visual_variance: float = Field(ge=0, le=1, description="Of images; 0: all the same")
    domain: Domain
    device: str = Field(description="cpu, cuda, mps")
    memory_gb: float = Field(ge=0)
    seconds_per_image: float = Field(gt=0, description="One training step's cost per image")


class TrainPlan(Contract):
    """``plan.json``: a complete training configuration (article, 3.1), each value with a reason."""

    base: str = Field(description="Name of the base in the profile")
    base_revision: str = Field(description="Its resolved revision; training refuses another")
    domain: Domain
    rank: int = Field(ge=1, le=256, description="LoRA r")
    alpha: float = Field(gt=0, description="LoRA alpha; strength is alpha / rank")
    target_modules: tuple[str, ...] = Field(min_length=1)
    learning_rate: float = Field(gt=0, lt=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    epochs: int = Field(ge=1)
    repeats: int = Field(1, ge=1, description="Times each image is shown in an epoch")
    steps: int = Field(ge=1, description="Optimizer steps in all")
    warmup_steps: int = Field(ge=0)
    resolution: int = Field(ge=8, description="Pixels; side of a square of a bucket's area")
    caption_dropout: float = Field(0.1, ge=0, le=1)
    flip: bool = True
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    ema_decay: float = Field(0.98, ge=0, lt=1, description="Of the LoRA weights; 0: none")
    min_snr_gamma: float | None = Field(None, gt=0, description="Min-SNR weighting; None: none")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's, decoupled from the loss")
    options: TrainOptions = TrainOptions()
    seed: int = 0
    measurements: Measurements
    reasons: dict[str, str] = Field(default_factory=dict, description="Field → why this value")
    advice: Advice = Field(Advice(), description="That this plan (and its dataset) follows")


class CacheUse(Contract):
    """What training's cache of encoded images and captions was good for; counts of items."""

    found: int = Field(0, ge=0)
    encoded: int = Field(0, ge=0)
    damaged: int = Field(0, ge=0, description="Cut short or changed on disk; encoded anew")
    unwritten: int = Field(0, ge=0, description="Disk or cache full; held in memory only")


class Truncation(Contract):
    """A LoRA cut to the ranks that the fixed validation probe needs; losses of that probe."""

    energy: float = Field(gt=0, le=1, description="Share of each layer's change that was kept")
    ranks: dict[str, int] = Field(description="By layer")
    bytes_before: int = Field(ge=0)
    bytes_after: int = Field(ge=0)
    probe_before: float
    probe_after: float


class TuneReport(StageReport):
    """Stats of a plan artifact."""

    plan: TrainPlan
    followed_advice: tuple[str, ...] = Field((), description="Each change that advice made")


class TrainReport(StageReport):
    """Stats of a lora artifact; files ``lora.safetensors``, ``training.jsonl``, ``loss.png``.

    ``checkpoints`` are earlier snapshots inside the artifact (averaged weights, the format of
    ``lora.safetensors``), oldest first.
    """

    base: str
    trigger: str
    rank: int
    steps: int = Field(ge=0)
    best_step: int = Field(ge=0)
    resumed_from: int = Field(0, ge=0, description="Step a retry went on from")
    train_loss: float
    validation_loss_before: float = Field(description="Fixed probe, LoRA at zero")
    validation_loss: float = Field(description="Fixed probe, weights written")
    images_per_second: float = Field(ge=0)
    peak_memory_mb: float = Field(ge=0)
    buckets: dict[str, int] = Field(
        default_factory=dict, description="width×height → training images of that shape"
    )
    cut_captions: int = Field(0, ge=0, description="Longer than the text encoder reads; end cut")
    cache: CacheUse = CacheUse()
    stopped_by: StoppedBy = "steps"
    actions: tuple[TrainingAction, ...] = Field((), description="What it did on its own")
    checkpoints: tuple[str, ...] = ()
    samples: tuple[str, ...] = Field(
        (), description="Pictures drawn on the way, ``samples/step-000080-0.png``, oldest first"
    )
    truncation: Truncation | None = Field(None, description="With adaptive ranks: what was cut")
    advice: Advice = Field(Advice(), description="That this LoRA's data and plan followed")
