"""Stats of a dataset artifact."""

from __future__ import annotations

from pydantic import Field

from lora_factory.contracts.base import StageReport
from lora_factory.imaging.agreement import Agreement


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
    captions: dict[str, int] = Field(description="found, composed (advice), theme → items")
    agreement: Agreement = Field(description="Of pictures and subjects, by the scorer")
    theme_weight: float = Field(ge=0, le=1, description="Of the pictures' evidence in themes")
    style_weight: float = Field(ge=0, le=1, description="The same in styles and schools")
    train: int = Field(ge=1)
    validation: int = Field(ge=0)
    groups: int = Field(ge=1, description="Sets of items the split kept together")
    split_by_page: bool
    resolution: int
    scorer: str
    followed_advice: tuple[str, ...] = Field((), description="Each change that advice made")
