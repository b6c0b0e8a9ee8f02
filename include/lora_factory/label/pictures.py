"""Thumbnails for the page: kept pictures, and dropped ones as far as they may be shown.

A dropped picture is shown only when the content filter lets it pass here and now: many were
dropped before any filter saw them. Some reasons are never shown, whatever a filter says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.errors import PermanentError
from lora_factory.imaging.decode import ImageRejected, decode
from lora_factory.store.artifacts import open_store

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.manifest import Manifest
    from lora_factory.contracts.stage import StageContext
    from lora_factory.guard.images import ImageFilter
    from lora_factory.label.summary import Cluster, Drop
    from lora_factory.store.artifacts import ArtifactStore

log = logging.getLogger(__name__)
THUMBNAIL = 128
"""Longer side, pixels."""
NEVER_SHOWN = frozenset({"taken_down", "protected_work", "opt_out", "advised_copied"})
"""Nor anything whose reason begins with ``unsafe``."""


def may_be_shown(reason: str) -> bool:
    """Whether pictures dropped for this reason may be looked at."""
    return reason not in NEVER_SHOWN and not reason.startswith("unsafe")


def wanted(drops: Sequence[Drop], clusters: Iterable[Cluster], hidden: set[str]) -> list[str]:
    """sha256 of the dropped images to show: examples of each reason, and copies.

    Args:
        drops: with their examples.
        clusters: those that are shown.
        hidden: sha256 that were dropped for a reason that is never shown.
    """
    shown = [
        line.item
        for drop in drops
        if drop.what == "image" and may_be_shown(drop.reason)
        for line in drop.examples
    ]
    shown += [sha256 for cluster in clusters for sha256 in cluster.dropped]
    return [item for item in dict.fromkeys(shown) if len(item) == 64 and item not in hidden]


def kept_thumbnails(folder: Path, files: Mapping[str, str]) -> dict[str, Image]:
    """sha256 → thumbnail. ``files``: sha256 → file below ``folder``."""
    return {
        sha256: _thumbnail(decode((folder / name).read_bytes())) for sha256, name in files.items()
    }


def dropped_thumbnails(
    shas: Sequence[str], ctx: StageContext, pictures: ImageFilter
) -> dict[str, Image]:
    """sha256 → thumbnail of those that are at hand, decode, and pass the filter.

    The bytes come from the raw artifact that the clean one was made of, if it is still there.
    """
    found: dict[str, Image] = {}
    source = _raw(ctx) if shas else None
    if source is None:
        return found
    store, manifest = source
    try:
        names = _file_names(store, manifest, set(shas))
        for sha256, name in names.items():
            ctx.check_stop()
            try:
                found[sha256] = _thumbnail(decode(store.read_file(manifest, name)))
            except ImageRejected:
                continue  # dropped for its bytes: there is nothing to see
    except PermanentError as err:
        log.info("pictures that were dropped are not at hand: %s", err)
    order = list(found)
    verdicts = pictures.check([found[sha256] for sha256 in order]) if order else []
    return {
        sha256: found[sha256]
        for sha256, verdict in zip(order, verdicts, strict=True)
        if verdict.allowed
    }


def _raw(ctx: StageContext) -> tuple[ArtifactStore, Manifest] | None:
    entry = next((e for e in ctx.inputs["clean"].manifest.inputs if e.name == "raw"), None)
    if entry is None:
        return None
    try:
        store = open_store(ctx.settings)
        return store, store.read_manifest(entry.manifest_uri)
    except PermanentError as err:
        log.info("pictures that were dropped are not at hand: %s", err)
        return None


def _file_names(store: ArtifactStore, manifest: Manifest, shas: set[str]) -> dict[str, str]:
    """sha256 → file within the raw artifact."""
    found = {}
    for line in store.lines(manifest, "records.jsonl"):
        record = json.loads(line) if line.strip() else {}
        if record.get("sha256") in shas:
            found[record["sha256"]] = record["file_name"]
    return found


def _thumbnail(image: Image) -> Image:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
