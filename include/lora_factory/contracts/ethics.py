"""The ethics report (article, 6.2 ``generate_ethics_report``): what was audited, with evidence.

``ethics.json`` of an evaluation, completed at release. Nothing in it says "fair" or
"compliant": it says what was measured, on how much, and what wasn't.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.copyright import CopyrightCheck

Side = Literal["base", "lora", "mitigated"]
"""``mitigated``: the LoRA with the text projection."""


class Estimate(Contract):
    """A quantity with its 95% interval (bootstrap, unless a field says otherwise)."""

    value: float
    low: float
    high: float
    n: int = Field(ge=0, description="Pictures it rests on")


class Share(Contract):
    """``count`` of ``n``, with a Wilson 95% interval."""

    count: int = Field(ge=0)
    n: int = Field(ge=0)
    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class ReadCheck(Contract):
    """Can the scorer tell an attribute on pictures whose prompt names it?"""

    side: Side
    accuracy: Share = Field(description="Leave-one-out, of pictures made from explicit prompts")
    floor: float = Field(ge=0, le=1, description="The interval's lower end must reach it")
    passed: bool


class PromptShare(Contract):
    """One neutral prompt: how often its pictures show the first group."""

    prompt: str = Field(description="The person asked for, without trigger and style")
    share: Share


class SideAudit(Contract):
    """Pictures of neutral prompts from one side, read for one attribute.

    Shares are of the attribute's first group among the pictures that show either group
    clearly; the others are ``undetermined`` and counted to neither.
    """

    side: Side
    pictures: int = Field(ge=0)
    undetermined: int = Field(ge=0)
    share: Share
    prompts: tuple[PromptShare, ...] = ()
    lean: Estimate | None = Field(
        None,
        description="Mean place between the groups' explicit pictures: 0 second, 1 first group; "
        "of all pictures, also those that show neither clearly",
    )
    parity: Estimate | None = Field(None, description="share − ½; None: nothing determined")
    association: Estimate | None = Field(
        None, description="Highest minus lowest share of a prompt; chance alone makes it > 0"
    )
    association_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Permutation test (χ²): so unlike each other without any association",
    )


class MitigationAudit(Contract):
    """What the text projection did to the LoRA's pictures: same prompts, same seeds."""

    share_before: Share
    share_after: Share
    change: Estimate | None = Field(
        description="|share − ½| after minus before; negative: closer to parity; None: unread"
    )
    alignment: Estimate | None = Field(
        description="Match with the prompt, after minus before, as a share of before's match"
    )
    margin: float = Field(ge=0, description="Loss of match that is still taken as none worse")
    non_inferior: bool | None = Field(description="alignment's low ≥ −margin; None: can't tell")
    recommended: bool = Field(description="Closer to parity beyond chance, and not inferior")
    note: str = ""


class AttributeAudit(Contract):
    """One attribute: what the pictures of neutral prompts show, and whether that can be read."""

    attribute: str
    groups: tuple[str, str]
    state: Literal["measured", "abstains"]
    note: str = Field(description="In words; where it abstains, why")
    checks: tuple[ReadCheck, ...]
    sides: tuple[SideAudit, ...] = ()
    shift: Estimate | None = Field(
        None, description="Share, LoRA minus base, paired by prompt and seed"
    )
    worse: Estimate | None = Field(
        None, description="|share − ½|, LoRA minus base; above 0: the LoRA made it worse"
    )
    lean_shift: Estimate | None = Field(None, description="Lean, LoRA minus base, paired")
    lean_mitigated: Estimate | None = Field(
        None, description="Lean, LoRA with the text projection minus LoRA, paired"
    )
    mitigation: MitigationAudit | None = None


class BiasAudit(Contract):
    """Association audit over attribute prompts."""

    state: Literal["measured", "abstains", "not_audited"] = Field(
        description="abstains: no attribute could be read; not_audited: switched off or impossible"
    )
    note: str
    pictures: int = Field(0, ge=0, description="Looked at")
    prompts: tuple[str, ...] = Field((), description="Neutral prompts, as the LoRA got them")
    seeds: tuple[int, ...] = ()
    steps: int = Field(0, ge=0)
    guidance: float = Field(0.0, ge=0)
    scorer: str = ""
    attributes: tuple[AttributeAudit, ...] = ()
    limits: tuple[str, ...] = Field((), description="What this audit can't tell")


ItemState = Literal["fulfilled", "missing", "at_release"]


class TransparencyItem(Contract):
    """One question that can be checked by opening a file."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    question: str
    state: ItemState
    detail: str = ""
    evidence: str = Field("", description="URI, file or field to open")


class TrainingDataSummary(Contract):
    """Of what the LoRA was trained on, filled from the dataset's records.

    Follows the headings of the European Commission's template for the public summary of
    training content (AI Act, Art. 53(1)(d)). A LoRA's maker is far below the compute that
    makes a general-purpose model provider of a fine-tuner: this is voluntary.
    """

    images: int = Field(ge=0)
    train: int = Field(ge=0)
    validation: int = Field(ge=0)
    modality: str = "still images with captions"
    megabytes: float = Field(0.0, ge=0)
    licences: dict[str, int] = Field(default_factory=dict, description="Licence → images")
    domains: dict[str, int] = Field(default_factory=dict, description="Source host → images")
    sources: str = Field("unknown", description="How the images were gathered")
    topics: tuple[str, ...] = ()
    collected: str = Field("unknown", description="ISO date, from the crawl's manifest")
    opt_out_measures: tuple[str, ...] = ()
    opt_outs_honoured: int = Field(0, ge=0, description="Pages and images left out for opt-outs")
    dropped: dict[str, int] = Field(default_factory=dict, description="`stage: reason` → items")
    evidence: tuple[str, ...] = ()


class MarkingDuty(Contract):
    """One duty of AI Act, Art. 50, and how this release meets it."""

    duty: str
    state: ItemState
    detail: str
    evidence: str = ""


class EthicsReport(Contract):
    """The article's three keys, and what the law asks to be written down beside them."""

    schema_version: int = 1
    stage: Literal["evaluation", "release"]
    bias_audit: BiasAudit
    copyright_compliance: tuple[CopyrightCheck, ...] = Field(
        (), description="Against the training set and the operator's index; empty: not checked"
    )
    transparency_score: float = Field(
        ge=0, le=1, description="Items fulfilled over all items; at_release counts as not yet"
    )
    transparency: tuple[TransparencyItem, ...]
    marking: tuple[MarkingDuty, ...]
    training_data: TrainingDataSummary
    notes: tuple[str, ...] = ()


class ReleaseFacts(Contract):
    """What deploy knows and evaluation could not: each an evidence string, empty where not so.

    ``complete_ethics`` turns them into the items that were ``at_release``.
    """

    signature: str = Field("", description="File of the model's signature")
    bom: str = Field("", description="File of the ML-BOM")
    c2pa: str = Field("", description="How every generated image gets its C2PA manifest")
    watermark: str = Field("", description="How every generated image is watermarked")
    watermark_reason: str = Field("", description="Why there is no watermark (below 256 px)")
    disclosure: str = Field("", description="Where users are told that images are generated")
    takedown: str = Field("", description="Where and how to ask for a removal")
    model_card: str = Field("", description="The release's README.md")
    registry: str = Field("", description="Catalog entry or release.json with the lineage")
