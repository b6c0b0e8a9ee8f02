"""What evaluation measures, decides and advises."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract, StageReport

Verdict = Literal["pass", "fail", "needs_person"]
"""``needs_person``: nothing failed, but nothing here may say pass (an uncalibrated scorer)."""


class Metric(Contract):
    """One measured quantity.

    ``score`` is the anchored value in [0, 1] that enters the overall score; None means that
    the metric abstains (the scorer can't tell, see ``note``) and counts neither way.
    """

    name: Literal["fidelity", "alignment", "diversity", "efficiency"]
    value: float = Field(description="Raw measurement")
    unit: str
    score: float | None = Field(ge=0, le=1)
    low: float | None = Field(None, description="95% bootstrap interval of the score")
    high: float | None = None
    n: int = Field(ge=0)
    note: str = ""


class HardGate(Contract):
    """A condition that no average can outweigh."""

    name: str
    passed: bool
    detail: str = ""


class Advice(Contract):
    """What the next attempt should do differently (``advice.json``)."""

    drop_alignment_percentile: float = Field(0.0, ge=0, le=50, description="Worst share to drop, %")
    recaption: bool = False
    rank_scale: float = Field(1.0, gt=0, le=4)
    learning_rate_scale: float = Field(1.0, gt=0, le=4)
    reasons: tuple[str, ...] = ()


class SettingTrial(Contract):
    """What one strength and number of steps gave on the few prompts of the trial."""

    strength: float = Field(ge=0, description="Adapter scale")
    steps: int = Field(ge=1, description="Denoising steps")
    style: float = Field(ge=0, le=1, description="Fidelity at this setting (0 base, 1 real images)")
    alignment: float | None = Field(ge=0, le=1, description="None: the scorer can't read the style")
    seconds: float = Field(ge=0, description="One picture, adapter beside the weights")


class RecommendedSettings(Contract):
    """What to ask the LoRA for (article, 3.2 ``suggest_inference_params``), and the trials."""

    strength: float = Field(ge=0)
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0, description="The evaluation's; not varied")
    prompts: int = Field(ge=1, description="Pictures a trial")
    seconds_unit: str = Field("s", description="`s of CPU` where processor time was measured")
    trials: tuple[SettingTrial, ...] = Field(min_length=1)
    note: str = Field("", description="Why this one")


class DataStatistics(Contract):
    """What a LoRA was trained on, counted from the dataset artifact."""

    train: int = Field(ge=0, description="Images")
    validation: int = Field(ge=0)
    resolution: int = Field(ge=1, description="Median of the shorter side, pixels")
    licences: dict[str, int] = Field(default_factory=dict, description="Licence → images")
    hosts: dict[str, int] = Field(default_factory=dict, description="Source host → images")
    dropped: dict[str, int] = Field(
        default_factory=dict, description="`stage: reason` → images, of the whole pipeline"
    )


class EvaluationReport(StageReport):
    """Stats of an evaluation artifact; files ``report.json``, ``grid.png``, ``advice.json``."""

    verdict: Verdict
    overall: float = Field(ge=0, le=1)
    overall_low: float = Field(ge=0, le=1, description="Lower end of the 95% interval")
    threshold: float = Field(ge=0, le=1)
    metrics: tuple[Metric, ...]
    gates: tuple[HardGate, ...]
    advice: Advice
    prompts: tuple[str, ...]
    trigger: str
    base: str
    scorer: str = Field(description="Role's model and revision")
    settings: RecommendedSettings | None = None
    data: DataStatistics | None = None


class DeployReport(StageReport):
    """Stats of a release artifact; files ``lora.safetensors``, ``release.json``."""

    name: str
    version: str
    target: str
    endpoint: str = Field(description="URL to POST a prompt to")
    previous: str | None = Field(None, description="Version that a rollback returns to")
    smoke_seconds: float = Field(ge=0)
    base: str
    trigger: str
