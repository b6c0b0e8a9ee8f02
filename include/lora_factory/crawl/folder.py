"""Source ``folder``: a user's own images, with captions in same-named ``.txt`` files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from lora_factory.contracts.progress import track
from lora_factory.contracts.records import AuditRecord, RawRecord
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.extract import squeeze
from lora_factory.crawl.images import MAX_BYTES, Dropped, ImageStore
from lora_factory.crawl.ledger import Ledger, dropped
from lora_factory.crawl.licences import refusal
from lora_factory.crawl.report import CrawlReport
from lora_factory.errors import DataError, SpecError

log = logging.getLogger(__name__)

CAPTION = ".txt"
MAX_CAPTION = 4000  # bytes
LICENCE = "own"


def crawl_folder(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Read every image under the folder.

    Raises:
        SpecError: the deployment offers no folder of that name, or ``licences`` lacks "own".
        DataError: the folder can't be read, or holds no usable image.
        Interrupted: asked to stop.
    """
    root = _root(spec, ctx)
    if refusal(LICENCE, spec.licences, allow_unknown=False):
        msg = 'images of source=folder have licence "own"; add it to licences'
        raise SpecError(msg)
    files = sorted(_files(root))
    ledger = Ledger()
    with closing(ImageStore(ctx.out, spec.max_images)) as store:
        for file in track(files, "crawl: folder", len(files), "files"):
            ctx.check_stop()
            ledger.add(_take(file, root, spec.folder, store))
    ledger.bytes_kept = store.bytes_kept
    ledger.write(ctx.out)
    return ledger.report("folder")


def _root(spec: CrawlSpec, ctx: StageContext) -> Path:
    folders = ctx.settings.folders
    if spec.folder not in folders:
        offered = ", ".join(sorted(folders)) or "none; set LORA_FACTORY_FOLDERS=name=path"
        msg = f"unknown folder {spec.folder!r}; the deployment offers: {offered}"
        raise SpecError(msg)
    root = folders[spec.folder].expanduser()
    try:
        next(iter(root.iterdir()), None)
    except OSError as err:
        msg = f"folder {spec.folder!r} can't be read: {err.strerror}; correct LORA_FACTORY_FOLDERS"
        raise DataError(msg) from err
    return root.resolve()


def _files(root: Path) -> Iterator[Path]:
    """Files below ``root`` but captions and hidden ones; linked folders aren't entered."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.lower().endswith(CAPTION):
                yield Path(folder, name)


def _take(file: Path, root: Path, name: str, store: ImageStore) -> RawRecord | AuditRecord:
    item = f"{name}/{file.relative_to(root).as_posix()}"
    item = item.encode("utf-8", "replace").decode("utf-8")  # names of other encodings
    try:
        image = store.check(_read(file, root, MAX_BYTES))
        store.keep(image, item)
    except Dropped as verdict:
        return dropped("image", item, verdict.reason, verdict.detail)
    return RawRecord(
        sha256=image.sha256,
        file_name=image.file_name,
        url=f"folder:{item}",
        caption=_caption(file, root),
        licence=LICENCE,
        licence_evidence=f"folder {name} of the deployment",
        width=image.width,
        height=image.height,
    )


def _read(file: Path, root: Path, limit: int) -> bytes:
    """The file's bytes.

    Raises:
        Dropped: ``outside_root``, ``not_an_image`` (no regular file), ``too_large``,
            ``unreadable``.
    """
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(root):
            raise Dropped(reason="outside_root", detail="a link that leaves the folder")
        if not real.is_file():
            raise Dropped(reason="not_an_image", detail="no regular file")
        with real.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links
        raise Dropped(reason="unreadable", detail=type(err).__name__) from err
    if len(data) > limit:
        raise Dropped(reason="too_large", detail=f"more than {limit} bytes")
    return data


def _caption(file: Path, root: Path) -> str:
    """Text of the same-named ``.txt``; empty where there is none that may be read."""
    path = file.with_suffix(CAPTION)
    if not path.exists():
        return ""
    try:
        return squeeze(_read(path, root, MAX_CAPTION).decode("utf-8-sig", "replace"))
    except Dropped as verdict:
        log.warning("caption %s left out: %s", path.name, verdict)
        return ""
