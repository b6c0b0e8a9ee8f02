"""What a crawl tells about itself."""

from __future__ import annotations

from pydantic import Field

from lora_factory.contracts.base import StageReport
from lora_factory.contracts.expansion import GraphAnswer
from lora_factory.contracts.specs import Source


class CrawlReport(StageReport):
    """Stats of a raw artifact; ``counts`` are of images.

    Files: ``images/<sha256>.<ext>``, ``records.jsonl``, ``audit.jsonl``.
    """

    source: Source
    pages_seen: int = Field(0, ge=0)
    pages_kept: int = Field(0, ge=0)
    pages_dropped: dict[str, int] = Field(default_factory=dict, description="Reason → pages")
    bytes_kept: int = Field(0, ge=0, description="Size of the images kept")
    licences: dict[str, int] = Field(default_factory=dict, description="Licence → images kept")
    topics: dict[str, float] = Field(
        default_factory=dict, description="Topic → mean score over the pages kept"
    )
    terms: dict[str, float] = Field(
        default_factory=dict, description="Topics and further terms looked for → weight"
    )
    graphs: tuple[GraphAnswer, ...] = Field((), description="Which knowledge graph answered")
