"""Raw records and an older dataset's records → checked pictures on disk, one after another."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.base import Contract
from lora_factory.contracts.records import AuditRecord, DatasetRecord, RawRecord, read_jsonl
from lora_factory.imaging.borders import crop_bars
from lora_factory.imaging.decode import ImageRejected, decode, sniff
from lora_factory.imaging.hashes import perceptual_hash, thumbnail
from lora_factory.imaging.png import write_png
from lora_factory.imaging.quality import MEASURED_SIDE, measure, reduced
from lora_factory.sanitize.captions import Caption, found_caption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.contracts.specs import SanitizeRequest
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.sanitize.earlier import Measured

STAGE = "sanitize"
SPLITS = ("train", "validation")
VIEW = 448  # pixels, shorter side that models look at large pictures with: twice their own


class Item(Contract):
    """A picture that passed its checks; its RGB pixels lie in ``images/<sha256>.png``."""

    record: RawRecord
    replayed: bool = False
    lossless: bool = False
    sharpness: float = 0.0
    writing: float | None = None  # share under text; None: nobody looked
    caption: Caption | None = None
    cropped: str = ""


@dataclass(frozen=True)
class Admitted:
    """An item just read, with what is measured of it and a view for the models.

    ``view`` is None where an earlier run showed the picture to them.
    """

    item: Item
    view: Image | None
    hash: str
    thumb: NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Where an item's bytes are."""

    record: RawRecord
    file: Path
    replayed: bool


@dataclass(frozen=True)
class Share:
    """The part ``number`` of ``count`` that all items fall into by their sha256.

    Equal bytes fall into the same part, so that exact copies are found within it.
    """

    number: int = 0
    count: int = 1

    def has(self, sha256: str) -> bool:
        """Whether the item is in this part."""
        return zlib.crc32(sha256.encode()) % self.count == self.number


def sources(
    raw: LocalArtifact, previous: LocalArtifact | None, share: Share = Share()
) -> Iterator[Source]:
    """Items of the previous dataset first (they win over copies), then the raw ones."""
    if previous is not None:
        yield from (found for found in _previous(previous.path) if share.has(found.record.sha256))
    with (raw.path / "records.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            # Most lines are other shares': they are not worth a full check.
            if line.strip() and share.has((fields := json.loads(line)).get("sha256", "")):
                record = RawRecord.model_validate(fields)
                yield Source(record, raw.path / record.file_name, replayed=False)


def count_sources(raw: LocalArtifact, previous: LocalArtifact | None) -> int:
    """How many there are, without reading what they are."""
    files = [raw.path / "records.jsonl"]
    if previous is not None:
        files += [previous.path / split / "metadata.jsonl" for split in SPLITS]
    count = 0
    for file in files:
        if file.is_file():
            with file.open("rb") as lines:
                count += sum(1 for _ in lines)
    return count


def admit(
    source: Source, folder: Path, spec: SanitizeRequest, measured: Measured | None = None
) -> Admitted | AuditRecord:
    """Decode, measure and normalise one picture into ``folder``; or why it is dropped.

    Normalised: upright, sRGB, on the chosen ground, without letterbox bars, its shorter side at
    most ``max_side``, PNG. What was ``measured`` by an earlier run is only copied.
    """
    if measured is not None and measured.passes(spec):
        return _copied(source, folder, measured)
    sha256, url = source.record.sha256, source.record.url
    try:
        data = source.file.read_bytes()
        image = decode(data, ground=spec.ground)
    except ImageRejected as err:
        return dropped(sha256, err.reason, f"{url} {err.detail}")
    except FileNotFoundError:
        return dropped(sha256, "missing_file", source.record.file_name)
    whole = image.size
    image = crop_bars(image)
    cropped = "" if image.size == whole else f"cropped {whole} to {image.size}"
    small = reduced(image, MEASURED_SIDE)  # once, for the measures and both fingerprints
    grey = small.convert("L")
    quality = measure(image, small, grey)
    problem = quality.problem(min_side=spec.min_side, max_aspect=spec.max_aspect)
    if problem:
        return dropped(sha256, problem, url)
    image = small if spec.max_side == MEASURED_SIDE else reduced(image, spec.max_side)
    write_png(image, folder / f"{sha256}.png")
    view = image if min(image.size) < 2 * VIEW else reduced(image, VIEW)
    return Admitted(
        Item(
            record=source.record.model_copy(update={"width": image.width, "height": image.height}),
            replayed=source.replayed,
            lossless=sniff(data) in {"png", "bmp"},
            sharpness=quality.sharpness,
            caption=found_caption(source.record),
            cropped=cropped,
        ),
        view,
        _known_hash(source, spec) or perceptual_hash(grey),
        thumbnail(small),
    )


def _known_hash(source: Source, spec: SanitizeRequest) -> str:
    """The hash that the crawl took of the same bytes by the same code, on white."""
    return source.record.perceptual_hash if spec.ground == "#ffffff" else ""


def _copied(source: Source, folder: Path, measured: Measured) -> Admitted:
    """An old picture, by what is known of it; the dataset's files were verified by sha256."""
    record = source.record
    shutil.copyfile(source.file, folder / f"{record.sha256}.png")
    size = {"width": measured.width, "height": measured.height}
    item = Item(
        record=record.model_copy(update=size),
        replayed=True,
        lossless=True,
        sharpness=measured.sharpness,
        writing=measured.writing,
        caption=found_caption(record),
    )
    return Admitted(item, None, measured.hash, measured.thumb)


def open_images(files: list[Path]) -> list[Image]:
    """RGB pixels of pictures, as models look at them."""
    from PIL import Image as PillowImage

    images = []
    for file in files:
        with PillowImage.open(file) as image:
            images.append(reduced(image.convert("RGB"), VIEW))
    return images


def dropped(item: str, reason: str, detail: str = "") -> AuditRecord:
    """An audit line for an image this stage drops."""
    return AuditRecord(
        item=item, what="image", stage=STAGE, verdict="dropped", reason=reason, detail=detail[:500]
    )


def _previous(path: Path) -> Iterator[Source]:
    for split in SPLITS:
        metadata = path / split / "metadata.jsonl"
        if not metadata.is_file():
            continue
        for record in read_jsonl(metadata, DatasetRecord):
            raw = RawRecord(
                sha256=record.sha256,
                file_name=f"{split}/{record.file_name}",
                url=record.source,
                page_url=record.page,
                caption=record.subject,
                licence=record.licence,
                licence_evidence="previous dataset",
                width=1,
                height=1,
            )
            yield Source(raw, path / raw.file_name, replayed=True)
