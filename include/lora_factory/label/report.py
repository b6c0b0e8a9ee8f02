"""Stats of a dataset artifact."""

from __future__ import annotations

from pydantic import Field

from lora_factory.contracts.base import Contract, StageReport
from lora_factory.imaging.agreement import Agreement


class LlmUse(Contract):
    """What an LLM was asked, and what that cost. Cached answers cost nothing.

    ``fallback``: why pictures were labelled without it: ``invalid`` (twice no valid answer),
    ``refused`` (by the endpoint's content filter), ``rejected``, ``unavailable`` (after
    retries), ``budget``, ``quota``.
    """

    model: str
    endpoint: str = Field(description="Host and port")
    vision: bool = Field(description="Pictures were sent")
    answered: int = Field(ge=0)
    cached: int = Field(ge=0, description="Answers of runs before")
    fallback: dict[str, int] = Field(default_factory=dict)
    corrected: int = Field(ge=0, description="Second tries after an answer that was invalid")
    requests: int = Field(ge=0, description="HTTP requests, retries among them")
    retries: int = Field(ge=0, description="HTTP requests that were repeated: 429, 5xx, timeouts")
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cost_usd: float | None = Field(None, ge=0, description="At list prices; None: not known")
    seconds: float = Field(ge=0)


class LabelReport(StageReport):
    """What labelling found.

    Reason codes in ``counts.dropped``: ``duplicate_record``, ``missing_file``,
    ``not_an_image``, ``corrupt``, ``too_many_pixels``, ``animated``.
    """

    trigger: str
    trigger_given: bool = Field(description="Asked for, not made up here")
    trigger_tokens: dict[str, int] = Field(description="Base → tokens it reads the trigger as")
    theme: str
    themes: dict[str, int] = Field(description="Narrowest theme → items; `unknown` among them")
    unknown_share: float = Field(ge=0, le=1, description="Items without a theme")
    confidence_mean: float = Field(ge=0, le=1, description="Of items with a theme")
    style: str
    style_source: str = Field(description="`labels`, or `tone and topic` when those are unknown")
    styles: dict[str, int]
    schools: dict[str, int]
    tones: dict[str, int] = Field(description="bilevel, grey, colour → items")
    keywords: tuple[str, ...]
    keywords_padded: int = Field(ge=0, description="Items whose own words were fewer than five")
    captions: dict[str, int] = Field(
        description="found, llm, composed (advice), theme, topic → items"
    )
    agreement: Agreement = Field(description="Of pictures and subjects, by the scorer")
    theme_weight: float = Field(ge=0, le=1, description="Of the pictures' evidence in themes")
    style_weight: float = Field(ge=0, le=1, description="The same in styles and schools")
    train: int = Field(ge=1)
    validation: int = Field(ge=0)
    groups: int = Field(ge=1, description="Sets of items the split kept together")
    pages: int = Field(ge=0, description="That the items come from")
    pages_parted: tuple[str, ...] = Field(
        (), description="Pages too large to be held out whole: pictures on both sides"
    )
    resolution: int
    scorer: str
    labeler: str = Field(description="zero-shot, or llm: who labelled first")
    llm: LlmUse | None = None
    followed_advice: tuple[str, ...] = Field((), description="Each change that advice made")
