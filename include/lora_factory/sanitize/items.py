"""Raw records and an older dataset's records → checked pictures on disk, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.progress import track
from lora_factory.contracts.records import AuditRecord, DatasetRecord, RawRecord, read_jsonl
from lora_factory.contracts.stage import StageContext
from lora_factory.imaging.decode import ImageRejected, decode, sniff
from lora_factory.imaging.hashes import perceptual_hash, thumbnail
from lora_factory.imaging.quality import measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.contracts.specs import SanitizeSpec

STAGE = "sanitize"


@dataclass(frozen=True)
class Item:
    """A picture that passed its checks; its RGB pixels lie in ``file``."""

    record: RawRecord
    file: Path
    replayed: bool
    lossless: bool
    sharpness: float
    hash: str
    thumb: NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Where an item's bytes are."""

    record: RawRecord
    file: Path
    replayed: bool


def sources(ctx: StageContext) -> list[Source]:
    """Items of the previous dataset first (they win over copies), then the raw ones."""
    found = []
    if "previous" in ctx.inputs:
        found = [*_previous(ctx.inputs["previous"].path)]
    raw = ctx.inputs["raw"].path
    for record in read_jsonl(raw / "records.jsonl", RawRecord):
        found.append(Source(record, raw / record.file_name, replayed=False))
    return found


def check(
    found: list[Source], spec: SanitizeSpec, ctx: StageContext, audit: list[AuditRecord]
) -> list[Item]:
    """Decode and measure each picture; write the healthy ones as RGB PNG to ``ctx.out``.

    One bad file is one line in ``audit``, by name; it never stops the rest.
    """
    folder = ctx.out / "images"
    folder.mkdir(exist_ok=True)
    items: list[Item] = []
    seen: set[str] = set()
    for source in track(found, "sanitize: check", len(found), "images"):
        ctx.check_stop()
        sha256 = source.record.sha256
        if sha256 in seen:
            audit.append(dropped(sha256, "exact_duplicate", source.record.url))
            continue
        seen.add(sha256)
        result = _admit(source, folder, spec)
        if isinstance(result, Item):
            items.append(result)
        else:
            audit.append(result)
    return items


def _admit(source: Source, folder: Path, spec: SanitizeSpec) -> Item | AuditRecord:
    """The picture as an item, its pixels in ``folder``; or why it is dropped."""
    sha256, url = source.record.sha256, source.record.url
    try:
        data = source.file.read_bytes()
        image = decode(data)
    except ImageRejected as err:
        return dropped(sha256, err.reason, f"{url} {err.detail}")
    except FileNotFoundError:
        return dropped(sha256, "missing_file", source.record.file_name)
    quality = measure(image)
    problem = quality.problem(min_side=spec.min_side, max_aspect=spec.max_aspect)
    if problem:
        return dropped(sha256, problem, url)
    file = folder / f"{sha256}.png"
    image.save(file, format="PNG")
    return Item(
        record=source.record.model_copy(update={"width": image.width, "height": image.height}),
        file=file,
        replayed=source.replayed,
        lossless=sniff(data) in {"png", "bmp"},
        sharpness=quality.sharpness,
        hash=perceptual_hash(image),
        thumb=thumbnail(image),
    )


def open_images(items: list[Item]) -> list[Image]:
    """The items' RGB pixels."""
    from PIL import Image as PillowImage

    images = []
    for item in items:
        with PillowImage.open(item.file) as image:
            images.append(image.convert("RGB"))
    return images


def dropped(item: str, reason: str, detail: str = "") -> AuditRecord:
    """An audit line for an image this stage drops."""
    return AuditRecord(
        item=item, what="image", stage=STAGE, verdict="dropped", reason=reason, detail=detail[:500]
    )


def _previous(path: Path) -> Iterator[Source]:
    for split in ("train", "validation"):
        metadata = path / split / "metadata.jsonl"
        if not metadata.is_file():
            continue
        for record in read_jsonl(metadata, DatasetRecord):
            raw = RawRecord(
                sha256=record.sha256,
                file_name=f"{split}/{record.file_name}",
                url=record.source,
                caption=record.subject,
                licence=record.licence,
                licence_evidence="previous dataset",
                width=1,
                height=1,
            )
            yield Source(raw, path / raw.file_name, replayed=True)


def read_audit(path: Path) -> list[AuditRecord]:
    """The audit of the stage before, carried on; empty where there is none."""
    file = path / "audit.jsonl"
    if not file.is_file():
        return []
    return list(read_jsonl(file, AuditRecord))
