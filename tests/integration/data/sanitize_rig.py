"""What tests of the sanitize stage share: a raw artifact in the making, and what a run left."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drawn_signs import signs  # type: ignore[import-not-found]
from PIL import Image

from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetRecord,
    RawRecord,
    read_jsonl,
)
from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import PACKAGE
from lora_factory.sanitize.report import SanitizeReport
from lora_factory.store.artifacts import open_store

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))
HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Raw:
    """A raw artifact in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        self.records: list[RawRecord] = []
        self.uri = ""

    def add(self, data: bytes | None, alt: str = "", **fields: Any) -> str:
        """One found image (None: its file is missing); returns its sha256."""
        sha256 = hashlib.sha256(data or str(len(self.records)).encode()).hexdigest()
        name = f"images/{sha256}.png"
        if data is not None:
            (self.folder / name).write_bytes(data)
        fields = {
            "url": f"https://example.org/IMG_{len(self.records)}.png",
            "licence": "MIT",
            "licence_evidence": "page footer",
            **fields,
        }
        self.records.append(
            RawRecord(sha256=sha256, file_name=name, alt=alt, width=1, height=1, **fields)
        )
        return sha256


def commit(settings: Settings, folder: Path, kind: Kind) -> str:
    """Put a folder made by hand into the store."""
    draft = Manifest(
        kind=kind,
        stage="crawl",
        stage_version=1,
        key=hashlib.sha256(str(folder).encode()).hexdigest()[:24],
        attempt="a",
        spec={},
        code_version="test",
        created_at=datetime.now(UTC),
    )
    return open_store(settings).commit(folder, draft)


class Cleaned:
    """What a run left in the store."""

    def __init__(self, settings: Settings, uri: str) -> None:
        self.uri = uri
        artifact = open_store(settings).fetch(uri)
        self.path = artifact.path
        self.counts = artifact.manifest.counts
        self.report = SanitizeReport.model_validate(artifact.manifest.stats)
        self.records = list(read_jsonl(artifact.path / "records.jsonl", CleanRecord))
        self.audit = list(read_jsonl(artifact.path / "audit.jsonl", AuditRecord))
        self.by_hash = {record.sha256: record for record in self.records}

    def why(self, sha256: str) -> list[str]:
        """Reason codes of the audit's lines on an image, of this stage; kept: empty reason."""
        found = [line for line in self.audit if line.item == sha256 and line.stage == "sanitize"]
        return [line.reason for line in found]


Sanitize = Callable[..., Cleaned]


def add_icons(raw: Raw, files: list[Path]) -> list[str]:
    return [raw.add(file.read_bytes(), file.stem.replace("-", " ")) for file in files]


def add_signs(raw: Raw) -> dict[str, str]:
    """Name → sha256 of 24 coloured signs with captions that fit."""
    return {name: raw.add(encoded(image), name) for name, image in signs().items()}


def check_files(cleaned: Cleaned) -> None:
    """The artifact's pictures are exactly the records', RGB and of the size they say."""
    files = {file.relative_to(cleaned.path).as_posix() for file in cleaned.path.rglob("*.png")}
    assert files == {record.file_name for record in cleaned.records}
    for record in cleaned.records:
        with Image.open(cleaned.path / record.file_name) as image:
            assert (image.mode, image.format) == ("RGB", "PNG")
            assert image.size == (record.width, record.height)
        assert (record.licence, record.licence_evidence) == ("MIT", "page footer")


def previous_dataset(folder: Path, files: list[Path]) -> list[str]:
    """A dataset artifact's folder; its pictures are decoded PNGs, named by the original's hash."""
    found = []
    for number, file in enumerate(files):
        split = "validation" if number % 5 == 0 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        with Image.open(file) as image:
            image.convert("RGB").save(folder / split / f"{sha256}.png")
        record = DatasetRecord(
            file_name=f"{sha256}.png",
            text=f"hcxq {file.stem}, outline icon",
            subject=file.stem.replace("-", " "),
            licence="MIT",
            source=f"https://old.example.org/{file.name}",
            page="https://old.example.org/",
            sha256=sha256,
        )
        with (folder / split / "metadata.jsonl").open("a") as lines:
            lines.write(record.model_dump_json() + "\n")
        found.append(sha256)
    return found


def artifacts(settings: Settings) -> list[str]:
    store = Path(settings.store.removeprefix("file://"))
    return [path.as_posix() for path in store.glob("clean/**/*") if path.is_file()]
