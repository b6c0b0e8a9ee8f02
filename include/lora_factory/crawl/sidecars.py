"""Captions that lie beside a user's own images.

=======================  ==========================================================================
``fox.txt``              the caption of ``fox.png``, as it is
``fox.json``             an object with ``caption`` or ``text`` (img2dataset's and WebDataset's way)
``metadata.jsonl``       a line an image: ``file_name`` (from its own folder), and ``text`` or
                         ``caption`` (the way of Hugging Face's imagefolder)
=======================  ==========================================================================

The first of them that says something counts. What can't be read is left out with a warning, and
the image has no caption: that is for a later stage to make.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lora_factory.crawl.fragments import squeeze
from lora_factory.crawl.images import Dropped

if TYPE_CHECKING:
    from lora_factory.crawl.own import Shelf

log = logging.getLogger(__name__)
SIDECARS = (".txt", ".json")
METADATA = "metadata.jsonl"
MAX_CAPTION = 4000  # bytes
MAX_SIDECAR = 64_000  # bytes of a .json; others' tools keep much beside the caption
MAX_LINE = 1_000_000  # bytes of a line of metadata.jsonl
FIELDS = ("caption", "text")


def sidecar_caption(path: str, shelf: Shelf) -> str:
    """The caption in a ``.txt`` or ``.json``; empty where there is none that can be read.

    Raises:
        ServiceUnavailable: the bucket does not answer.
    """
    from lora_factory.crawl.own import read

    plain = path.lower().endswith(".txt")
    try:
        data = read(shelf, path, MAX_CAPTION if plain else MAX_SIDECAR)
        return _words(data.decode("utf-8-sig", "replace") if plain else _caption(_object(data)))
    except (Dropped, ValueError) as err:
        log.warning("caption %s left out: %s", path.rpartition("/")[2], err)
        return ""


def metadata_captions(path: str, shelf: Shelf) -> Iterator[tuple[str, str]]:
    """(path of an image, caption), from a ``metadata.jsonl``, a line in memory at a time.

    Raises:
        ServiceUnavailable: the bucket does not answer.
    """
    folder, bad, first = posixpath.dirname(path), 0, ""
    try:
        for number, line in enumerate(_lines(shelf.stream(path)), 1):
            try:
                entry = _object(line)
                if caption := _words(_caption(entry)):
                    yield _inside(folder, entry.get("file_name")), caption
            except ValueError as err:
                bad, first = bad + 1, first or f"line {number}: {err}"
    except Dropped as err:
        log.warning("%s left out: %s", path, err)
    if bad:
        log.warning("%s: %d lines left out, the first is %s", path, bad, first)


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except RecursionError as err:
        msg = "JSON is too deep"
        raise ValueError(msg) from err
    if not isinstance(found, dict):
        msg = "no JSON object"
        raise ValueError(msg)  # noqa: TRY004 - of the data, like all else here
    return found


def _caption(entry: dict[str, Any]) -> str:
    return next((v for f in FIELDS if isinstance(v := entry.get(f), str) and v.strip()), "")


def _words(text: str) -> str:
    """A caption on one line.

    Raises:
        ValueError: it is longer than any caption.
    """
    if len(text.encode("utf-8", "replace")) > MAX_CAPTION:
        msg = f"a caption of more than {MAX_CAPTION} bytes"
        raise ValueError(msg)
    return squeeze(text.encode("utf-8", "replace").decode("utf-8"))  # JSON may escape surrogates


def _inside(folder: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        msg = "no file_name"
        raise ValueError(msg)
    return posixpath.normpath(posixpath.join(folder, name))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines that aren't blank; one longer than ``MAX_LINE`` ends the file."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > MAX_LINE:
            raise Dropped(reason="too_large", detail=f"a line of more than {MAX_LINE} bytes")
    if rest.strip():
        yield rest
