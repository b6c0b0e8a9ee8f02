"""What evaluation measures, decides and advises."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_factory.contracts.base import Contract, StageReport
from lora_factory.contracts.ethics import EthicsReport

Verdict = Literal["pass", "fail", "needs_person"]
"""``needs_person``: nothing failed, but nothing here may say pass (an uncalibrated scorer)."""


MetricName = Literal[
    "fidelity",
    "alignment",
    "diversity",
    "efficiency",
    "typicality",
    "adherence",
    "drift",
    "cmmd",
    "kid",
    "aesthetic",
    "preference",
]


class Metric(Contract):
    """One measured quantity.

    ``score`` is the anchored value in [0, 1]; None means that the metric has no scale, or
    abstains (the scorer can't tell, see ``note``). Only ``counted`` ones enter the overall score.
    """

    name: MetricName
    value: float = Field(description="Raw measurement")
    unit: str
    score: float | None = Field(ge=0, le=1)
    low: float | None = Field(None, description="95% bootstrap interval of the score")
    high: float | None = None
    value_low: float | None = Field(None, description="95% bootstrap interval of the value")
    value_high: float | None = None
    n: int = Field(ge=0)
    note: str = ""
    counted: bool = Field(default=True, description="Enters the overall score, if it has a score")
    scorer: str = Field("", description="Model and revision that saw the pictures; empty: none")


class Scale(Contract):
    """Where a raw measurement counts as 0, and where as 1; between them linear."""

    zero: float = 0.0
    one: float = 1.0

    @model_validator(mode="after")
    def _two_points(self) -> Self:
        if self.zero == self.one:
            msg = "a scale needs two different points"
            raise ValueError(msg)
        return self


class Constants(Contract):
    """The numbers in the formulas of the scores (``evaluate/calibration.py`` explains each)."""

    fidelity: Scale = Scale()
    alignment: Scale = Scale()
    diversity: Scale = Scale()
    efficiency: Scale = Scale()
    typicality: Scale = Scale()
    adherence: Scale = Scale()
    drift: Scale = Scale()
    in_style_percentile: float = Field(5.0, ge=0, lt=50)
    least_alignment: float = Field(0.5, ge=0, le=1)
    counted: tuple[MetricName, ...] = Field(
        ("fidelity", "alignment", "diversity", "efficiency"), min_length=1
    )


class FirstLook(Contract):
    """How the scores did on styles that were drawn, and looked at once, after all was frozen.

    The reported styles enter no constant, but who chose the metrics had seen them.
    """

    styles: tuple[str, ...]
    good: int = Field(ge=1, description="Sound LoRAs")
    passed: int = Field(ge=0, description="Of these")
    sabotaged: int = Field(ge=1)
    let_through: int = Field(ge=0, description="Of these")
    auc: float = Field(ge=0, le=1)
    auc_low: float = Field(ge=0, le=1, description="95% interval")
    auc_high: float = Field(ge=0, le=1)


class CalibrationNote(Contract):
    """On what the scores' constants were fitted, and how well they tell good from bad.

    Calibrated on sabotaged adapters, not on people's judgement.
    """

    scorer: str = Field(description="Resolved revision of the scorer")
    fitted_on: tuple[str, ...] = Field(description="Styles the constants were fitted on")
    reported_on: tuple[str, ...] = Field(description="Other styles, that the figures are of")
    good: int = Field(ge=1, description="Sound LoRAs among the reported")
    sabotaged: int = Field(ge=1, description="Sabotaged ones")
    auc: float = Field(ge=0, le=1, description="Overall score, sound against sabotaged")
    auc_low: float | None = Field(None, ge=0, le=1, description="95% interval")
    auc_high: float | None = Field(None, ge=0, le=1)
    note: str = Field("", description="What it can't detect")
    first_look: FirstLook | None = Field(
        None, description="None: not taken since the constants were fitted"
    )


class Calibration(CalibrationNote):
    """A file of ``evaluate/calibrations/``: constants that belong to one scorer."""

    bases: tuple[str, ...] = Field((), description="Revisions of bases it holds for; empty: any")
    constants: Constants
    command: str = Field("", description="What made this file")


class Candidate(Contract):
    """One file of a LoRA artifact, judged on the choosing prompts."""

    checkpoint: str
    overall: float = Field(ge=0, le=1, description="Without efficiency")
    n: int = Field(ge=1, description="Pictures")


class Comparison(Contract):
    """This LoRA against the deployed one, picture by picture on the same prompts and seeds."""

    lora: str = Field(description="URI of the deployed model's artifact")
    checkpoint: str
    overall: float = Field(ge=0, le=1, description="This LoRA's, without efficiency")
    incumbent: float = Field(ge=0, le=1, description="The deployed one's, likewise")
    difference: float
    low: float = Field(description="95% interval of the difference (paired bootstrap)")
    high: float
    n: int = Field(ge=1, description="Pairs")


class HardGate(Contract):
    """A condition that no average can outweigh."""

    name: str
    passed: bool
    detail: str = ""


class ItemAdvice(Contract):
    """What to do with one image of the dataset, and why."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Names the item, as in every record")
    do: Literal["drop", "recaption"]
    reason: Literal["caption_mismatch", "off_style", "copied"]
    text: str = Field(
        "",
        max_length=500,
        description="New caption (recaption); empty: the old one is taken away, and words of the "
        "captioner, an LLM or the set's theme stand in",
    )
    detail: str = Field("", max_length=500, description="What was seen, in words")


class Advice(Contract):
    """What the next attempt should do differently (``advice.json``).

    Scales are of what the tuner would choose unadvised. Advice holds from then on: what an
    attempt advises includes what it followed itself, since each attempt starts from the raw
    data again.
    """

    items: tuple[ItemAdvice, ...] = Field((), description="Images to drop or to caption anew")
    drop_alignment_percentile: float = Field(0.0, ge=0, le=50, description="Worst share to drop, %")
    recaption: bool = Field(default=False, description="Compose the poorest captions anew")
    rank_scale: float = Field(1.0, gt=0, le=4)
    learning_rate_scale: float = Field(1.0, gt=0, le=4)
    steps_scale: float = Field(1.0, gt=0, le=4, description="Of steps (and epochs)")
    weight_decay: float | None = Field(
        None, ge=0, le=1, description="Regularisation; None: the tuner's"
    )
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
    """Stats of an evaluation artifact; files ``report.json``, ``grid.png``, ``advice.json``.

    Verdict: a gate closed, or ``overall_low`` below the threshold: ``fail``; else no
    calibration of the scorer: ``needs_person``; else ``pass``.
    """

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
    checkpoint: str = Field(
        "lora.safetensors", description="File of the LoRA artifact that was chosen and judged"
    )
    candidates: tuple[Candidate, ...] = ()
    choosing_prompts: tuple[str, ...] = ()
    drift_prompts: tuple[str, ...] = Field((), description="Without trigger and style")
    seeds: int = Field(1, ge=1, description="Pictures a prompt")
    calibration: CalibrationNote | None = Field(
        None, description="None: the scorer is not calibrated, no verdict is a pass"
    )
    incumbent: Comparison | None = None
    notes: tuple[str, ...] = Field((), description="What a reader must know of the figures")
    settings: RecommendedSettings | None = None
    data: DataStatistics | None = None
    ethics: EthicsReport | None = Field(None, description="The same as `ethics.json`")


class DeployReport(StageReport):
    """Stats of a release artifact; files: :mod:`lora_factory.guard.provenance.release`."""

    name: str
    version: str
    target: str
    endpoint: str = Field(description="URL to POST a prompt to")
    previous: str | None = Field(None, description="Version that a rollback returns to")
    approved_by: str | None = Field(
        None, description="Person who approved it, and when, where no calibrated scorer could"
    )
    smoke_seconds: float = Field(ge=0)
    base: str
    trigger: str
    signed: bool = Field(default=False, description="model.sig covers every file of the release")
    key: str = Field("", description="Fingerprint of the key: sha256 of the public key's PEM")
    images: int | None = Field(None, ge=0, description="Listed in dataset.manifest.json")
    lineage_complete: bool = Field(default=False, description="lineage.json reaches raw")
