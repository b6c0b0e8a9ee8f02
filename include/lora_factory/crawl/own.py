"""A user's own images, wherever they lie: one way to read a folder and a bucket.

What is there is listed first, into a file on disk, so that memory doesn't grow with the number
of images; then each image is read with its caption (:mod:`.sidecars`), some of them ahead.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lora_factory.contracts.progress import track
from lora_factory.contracts.records import AuditRecord, RawRecord
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.images import MAX_BYTES, Dropped, ImageStore
from lora_factory.crawl.ledger import KeptImage, Ledger, dropped
from lora_factory.crawl.licences import refusal
from lora_factory.crawl.report import CrawlReport
from lora_factory.crawl.sidecars import METADATA, SIDECARS, metadata_captions, sidecar_caption
from lora_factory.errors import SpecError

LICENCE = "own"
AHEAD_BYTES = 64 << 20
"""Bytes of images that are read ahead at most, beside the one that is looked at."""


class Shelf(Protocol):
    """Where the images lie. Paths are relative, with ``/``."""

    kind: str
    """``folder`` or ``bucket``: what the operator offers under a name."""
    name: str
    ahead: int
    """How many files may be read at a time."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Every file that isn't hidden, with its size; 0 where that costs a look."""

    def stream(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces. May be called in a thread.

        Raises:
            Dropped: ``outside_root``, ``not_an_image`` (no regular file), ``unreadable``.
            ServiceUnavailable: the place does not answer.
        """


def read(shelf: Shelf, path: str, limit: int) -> bytes:
    """All bytes of a file.

    Raises:
        Dropped: ``too_large``, or as :meth:`Shelf.stream`.
        ServiceUnavailable: as :meth:`Shelf.stream`.
    """
    data = bytearray()
    for piece in shelf.stream(path):
        data += piece
        if len(data) > limit:
            raise Dropped(reason="too_large", detail=f"more than {limit} bytes")
    return bytes(data)


def crawl_shelf(spec: CrawlSpec, ctx: StageContext, shelf: Shelf) -> CrawlReport:
    """Read every image of a folder or bucket.

    Raises:
        SpecError: ``licences`` lacks "own".
        DataError: no image is usable.
        ServiceUnavailable: the bucket does not answer.
        Interrupted: asked to stop.
    """
    if refusal(LICENCE, spec.licences, allow_unknown=False):
        msg = f'images of source={shelf.kind} have licence "own"; add it to licences'
        raise SpecError(msg)
    with (
        closing(Inventory(ctx.scratch / "inventory.sqlite")) as inventory,
        closing(ImageStore(ctx.out, spec.max_images)) as store,
        closing(Ledger(ctx.scratch / "ledger.sqlite")) as ledger,
    ):
        for path, size in shelf.files():
            ctx.check_stop()
            inventory.add(path, size)
        for path in inventory.metadata():
            inventory.caption(metadata_captions(path, shelf))
        taker = Taker(spec, shelf, store)
        found = brought(shelf, inventory, lambda: taker.full)
        for one in track(found, f"crawl: {shelf.kind}", inventory.count(), "files"):
            ctx.check_stop()
            ledger.add(taker.take(one))
        ledger.write(ctx.out)
        return ledger.report(spec.source)


@dataclass(frozen=True)
class Brought:
    """A file that was read, or why it wasn't."""

    path: str
    caption: str = ""
    data: bytes = b""
    refused: Dropped | None = None


class Taker:
    """Turns what was read into entries of the ledger."""

    def __init__(self, spec: CrawlSpec, shelf: Shelf, store: ImageStore) -> None:
        self._wanted, self._shelf, self._store = spec.max_images, shelf, store
        self._kept = 0

    @property
    def full(self) -> bool:
        """Whether as many images as wanted were kept."""
        return self._kept >= self._wanted

    def take(self, one: Brought) -> KeptImage | AuditRecord:
        """Check and store one image; or the verdict on it."""
        item = f"{self._shelf.name}/{one.path}"
        item = item.encode("utf-8", "replace").decode("utf-8")  # names of other encodings
        try:
            if one.refused is not None:
                raise one.refused
            image = self._store.check(one.data)
            self._store.keep(image, item)
        except Dropped as verdict:
            return dropped("image", item, verdict.reason, verdict.detail)
        self._kept += 1
        record = RawRecord(
            sha256=image.sha256,
            file_name=image.file_name,
            url=f"{self._shelf.kind}:{item}",
            caption=one.caption,
            licence=LICENCE,
            licence_evidence=f"{self._shelf.kind} {self._shelf.name} of the deployment",
            width=image.width,
            height=image.height,
            perceptual_hash=image.perceptual_hash,
        )
        return KeptImage(record=record, size=len(image.data))


def brought(shelf: Shelf, inventory: Inventory, full: Callable[[], bool]) -> Iterator[Brought]:
    """Every image with its caption, by path; a few are read ahead.

    Args:
        shelf: where they lie.
        inventory: what lies there.
        full: whether no more are wanted; the rest is then refused unread.
    """
    flying: deque[tuple[Future[Brought], int]] = deque()
    weight = 0
    with closing(_Readers(shelf)) as readers:
        for path, size in inventory.images():
            while flying and (len(flying) >= shelf.ahead or weight + size > AHEAD_BYTES):
                done, its = flying.popleft()
                weight -= its
                yield done.result()
            if full():
                verdict = Dropped(reason="over_budget", detail="as many images as wanted are here")
                flying.append((_settled(Brought(path, refused=verdict)), 0))
            elif size > MAX_BYTES:
                verdict = Dropped(reason="too_large", detail=f"{size} bytes, at most {MAX_BYTES}")
                flying.append((_settled(Brought(path, refused=verdict)), 0))
            else:
                flying.append((readers.start(path, inventory), size))
                weight += size
        while flying:
            yield flying.popleft()[0].result()


class _Readers:
    """Threads that read files."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._pool = ThreadPoolExecutor(shelf.ahead, thread_name_prefix="crawl-own")

    def start(self, path: str, inventory: Inventory) -> Future[Brought]:
        """Read an image and its caption; what the inventory knows is asked here, not there."""
        beside = next((s for s in sidecars(path) if inventory.has(s)), None)
        return self._pool.submit(self._bring, path, beside, inventory.caption_of(path))

    def _bring(self, path: str, beside: str | None, caption: str) -> Brought:
        try:
            data = read(self._shelf, path, MAX_BYTES)
        except Dropped as verdict:
            return Brought(path, refused=verdict)
        own = sidecar_caption(beside, self._shelf) if beside is not None else ""
        return Brought(path, own or caption, data)

    def close(self) -> None:
        """Wait for what is under way; the rest isn't begun."""
        self._pool.shutdown(cancel_futures=True)


def _settled(one: Brought) -> Future[Brought]:
    future: Future[Brought] = Future()
    future.set_result(one)
    return future


def sidecars(path: str) -> tuple[str, ...]:
    """Files that may hold the caption of an image, the one that counts first."""
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return tuple(f"{folder}{slash}{stem}{suffix}" for suffix in SIDECARS)


class Inventory:
    """What lies on a shelf, in a file of its own.

    Args:
        path: the file, made anew.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER, kind TEXT) WITHOUT ROWID;"
            "CREATE TABLE captions (path BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID;"
        )

    def add(self, path: str, size: int) -> None:
        """Note one file."""
        name = path.rpartition("/")[2].lower()
        kind = "metadata" if name == METADATA else "image"
        if name.endswith(SIDECARS):
            kind = "sidecar"
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (_raw(path), size, kind))

    def count(self) -> int:
        """How many may be images."""
        (found,) = self._db.execute("SELECT count(*) FROM files WHERE kind = 'image'").fetchone()
        return int(found)

    def images(self) -> Iterator[tuple[str, int]]:
        """Path and size of what may be images, by path."""
        rows = self._db.execute("SELECT path, size FROM files WHERE kind = 'image' ORDER BY path")
        for path, size in rows:
            yield _text(path), size

    def metadata(self) -> list[str]:
        """Paths of ``metadata.jsonl`` files, outer folders first: inner ones say it better."""
        rows = self._db.execute("SELECT path FROM files WHERE kind = 'metadata' ORDER BY path")
        return sorted((_text(path) for (path,) in rows), key=lambda path: path.count("/"))

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        row = self._db.execute("SELECT 1 FROM files WHERE path = ?", (_raw(path),)).fetchone()
        return row is not None

    def caption(self, captions: Iterator[tuple[str, str]]) -> None:
        """Note captions by path; later ones replace earlier ones."""
        rows = ((_raw(path), text) for path, text in captions)
        self._db.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?)", rows)

    def caption_of(self, path: str) -> str:
        """The caption that was noted for an image; empty where none was."""
        row = self._db.execute("SELECT text FROM captions WHERE path = ?", (_raw(path),)).fetchone()
        return "" if row is None else str(row[0])

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")  # as the file system has names of no encoding


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
