"""Images that may not be used, whatever their quality: taken down, or a protected work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.records import DatasetRecord, RawRecord, read_jsonl
from lora_factory.guard.copying import perceptual_hashes
from lora_factory.guard.protected import protected_conditions
from lora_factory.sanitize.items import Source, dropped, open_images
from lora_factory.store.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_factory.contracts.records import AuditRecord
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.guard.protected import ProtectedIndex
    from lora_factory.sanitize.parts import AuditLog, Parts

log = logging.getLogger(__name__)
CHUNK = 64


def conditions(inputs: Mapping[str, LocalArtifact], settings: Settings) -> dict[str, str]:
    """What of the deployment decides the result, beside the spec: it enters the artifact key.

    Of all takedowns only those that are in the inputs, so that another item's takedown
    doesn't make this artifact anew.
    """
    found = protected_conditions(settings)
    taken = taken_down(_names(inputs), settings)
    if taken:
        found["takedowns"] = f"sha256:{sha256_json(sorted(taken))[:16]}"
    return found


def taken_down(names: Iterator[str], settings: Settings) -> dict[str, str]:
    """Which of these URLs and sha256 were taken down → the takedown's item.

    None where no catalog is configured: takedowns are kept there.
    """
    dsn = settings.catalog.get_secret_value()
    return Catalog(dsn).taken_down(name for name in names if name) if dsn else {}


def drop_taken_down(
    found: Sequence[Source], ctx: StageContext, audit: list[AuditRecord]
) -> list[Source]:
    """The sources that nobody has taken down; their bytes are not even read."""
    taken = taken_down((name for source in found for name in _of(source.record)), ctx.settings)
    kept = []
    for source in found:
        item = next((taken[name] for name in _of(source.record) if name in taken), None)
        if item is None:
            kept.append(source)
        else:
            audit.append(dropped(source.record.sha256, "taken_down", item))
    return kept


def drop_taken_down_since(parts: Parts, audit: AuditLog, ctx: StageContext) -> set[int]:
    """Indices of items that were taken down after their part was made."""
    taken = taken_down((name for item in parts.items for name in _of(item.record)), ctx.settings)
    gone = set()
    for at, item in enumerate(parts.items if taken else ()):
        found = next((taken[name] for name in _of(item.record) if name in taken), None)
        if found is not None:
            gone.add(at)
            audit.append(dropped(item.record.sha256, "taken_down", found))
    return gone


def drop_protected(
    parts: Parts, gone: set[int], index: ProtectedIndex, ctx: StageContext, audit: AuditLog
) -> int:
    """Add items that repeat a protected work to ``gone``, each in ``audit`` with the work.

    After the copies are out: the copy of a protected work must not take its place. Under the
    policy ``flag`` nothing is dropped.

    Args:
        parts: n items and their embeddings.
        gone: indices of items that are out already; they are not looked at.
        index: of the deployment.
        ctx: policy and stop flag.
        audit: of this stage.

    Returns:
        How many items repeat a work, dropped or not.
    """
    left = [at for at in range(len(parts.items)) if at not in gone]
    matched = 0
    for start in range(0, len(left), CHUNK):
        ctx.check_stop()
        part = left[start : start + CHUNK]
        names = [parts.items[at].record.sha256 for at in part]
        files = [parts.items.file(at, name) for at, name in zip(part, names, strict=True)]
        hashes = perceptual_hashes(open_images(files))
        matches = index.nearest(np.asarray(parts.images[part]), hashes)
        for at, sha256, match in zip(part, names, matches, strict=True):
            if not match.copied:
                continue
            matched += 1
            what = f"{match.work!r}, cosine {match.similarity:.3f}, {match.distance} bits"
            log.warning("%s repeats the protected work %s", sha256, what)
            if ctx.settings.protected_policy == "block":
                gone.add(at)
                audit.append(dropped(sha256, "protected_work", what))
    return matched


def _of(record: RawRecord) -> tuple[str, ...]:
    return record.sha256, record.url, record.page_url


def _names(inputs: Mapping[str, LocalArtifact]) -> Iterator[str]:
    """What names the images of the inputs."""
    for record in read_jsonl(inputs["raw"].path / "records.jsonl", RawRecord):
        yield from _of(record)
    if "previous" in inputs:
        for split in ("train", "validation"):
            file = inputs["previous"].path / split / "metadata.jsonl"
            for past in read_jsonl(file, DatasetRecord) if file.is_file() else ():
                yield past.sha256
                yield past.source
                yield past.page
