"""The records inside artifacts: one JSON object a line.

=========  =====================================================================
raw        ``images/<sha256>.<ext>``, ``records.jsonl`` (:class:`RawRecord`),
           ``audit.jsonl`` (:class:`AuditRecord`), ``validators.jsonl`` (for a later
           crawl that asks only for what is new)
clean      ``images/<sha256>.png`` (RGB), ``records.jsonl`` (:class:`CleanRecord`),
           ``audit.jsonl``, ``measures.npz`` (for a later increment)
dataset    ``train/`` and ``validation/`` with ``<sha256>.png`` and ``metadata.jsonl``
           (:class:`DatasetRecord`), ``dataset.json`` (:class:`DatasetInfo`),
           ``embeddings.npz`` (``sha256``: n strings; ``image``: n×d float32, unit
           length, the scorer's joint space), ``embeddings.npy`` (n×d: picture and
           subject in one vector; rows named in ``embeddings.jsonl``),
           ``measures.npz`` as the clean artifact had it,
           ``audit.parquet``, ``README.md`` (card), ``report.html``
=========  =====================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from lora_factory.contracts.base import Contract

MEASURES_FILE = "measures.npz"
"""What sanitize measured of each picture, handed on with the dataset to its next increment."""
Domain = Literal["art", "photo", "anime"]


class AuditRecord(Contract):
    """The verdict on one item (page or image) that some stage saw."""

    item: str = Field(description="URL, or sha256 once the bytes are known")
    what: Literal["page", "image"]
    stage: str
    verdict: Literal["kept", "dropped"]
    reason: str = Field("", description="Reason code, snake_case; empty when kept")
    detail: str = ""


class RawRecord(Contract):
    """One image as it was found."""

    sha256: str = Field(description="Of the original bytes")
    file_name: str
    url: str
    page_url: str = ""
    alt: str = ""
    caption: str = Field("", description="figcaption, or the same-named .txt of a folder")
    nearby: str = Field("", description="Text around the image, at most 500 characters")
    page_title: str = ""
    topics: dict[str, float] = Field(default_factory=dict, description="Topic → score in [0, 1]")
    licence: str = Field("unknown", description="SPDX-like id, or `unknown`, `own`")
    licence_evidence: str = Field("", description="Where the licence was read")
    width: int = Field(ge=1, description="Pixels")
    height: int = Field(ge=1, description="Pixels")
    perceptual_hash: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="``imaging.hashes.picture_hash`` of the picture decoded on white; or empty",
    )


class CleanRecord(Contract):
    """One image that may be trained on, with its repaired text."""

    sha256: str = Field(description="Of the original bytes; names the item everywhere")
    file_name: str
    url: str
    page_url: str = ""
    page_title: str = ""
    text: str = Field(description="Best caption found on the page, repaired; may be empty")
    text_source: Literal["caption", "alt", "nearby", "title", "composed", "none"]
    alignment: float | None = Field(None, description="Cosine of image and text; None: no text")
    licence: str
    licence_evidence: str = ""
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Labels(Contract):
    """Hierarchical labels (article, section 2.2)."""

    theme: tuple[str, ...] = Field((), max_length=3)
    style: str = "unknown"
    school: str = "unknown"
    keywords: tuple[str, ...] = Field((), max_length=8)
    confidence: float = Field(0.0, ge=0, le=1)


class DatasetRecord(Contract):
    """One line of ``metadata.jsonl``."""

    file_name: str
    text: str = Field(description="Training caption, with the trigger word")
    subject: str = Field(description="Caption without trigger and style words")
    labels: Labels = Labels()
    licence: str
    source: str = Field(description="URL of the image")
    page: str = Field("", description="URL of the page it was found on")
    sha256: str


class DatasetInfo(Contract):
    """``dataset.json``: what later stages need to know of a dataset."""

    trigger: str
    style: str
    theme: str
    keywords: tuple[str, ...]
    domain: Domain
    train: int = Field(ge=1)
    validation: int = Field(ge=0)
    resolution: int = Field(ge=8, description="Median of the shorter side, pixels")


T = TypeVar("T", bound=Contract)


def read_jsonl(path: Path, record: type[T]) -> Iterator[T]:
    """Yield the records of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                # json first: pydantic's own parser refuses the lone surrogates of hostile text
                yield record.model_validate(json.loads(line))


def write_jsonl(path: Path, records: Iterable[Contract]) -> int:
    """Write records one a line; returns how many. Lone surrogates are escaped."""
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record.model_dump(mode="json")) + "\n")
            count += 1
    return count
