"""Conditional re-crawl: what has not changed since an earlier crawl is not sent again.

A raw artifact keeps, in ``validators.jsonl``, the ETag and Last-Modified of the pages and images
it was made of, and the pages' bytes (the images' lie in ``images/``). A crawl whose ``previous``
names it asks with If-None-Match and If-Modified-Since (RFC 9110, 13.1); an answer of 304 becomes
the earlier one, and is judged as if it had come: rules and topics may have changed meanwhile.

What the earlier answer's headers reserved stays reserved, as a 304 need not repeat them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.visits import FILE, Visit

log = logging.getLogger(__name__)

SETTING = "LORA_FACTORY_PREVIOUS"  # Scrapy setting: folder of the earlier artifact, and an index
UNCHANGED = "unchanged"
"""Flag of a response that is an earlier answer."""
MAX_PAGE = 4 * 1024 * 1024  # bytes: more was never fetched


def previous_setting(ctx: StageContext) -> dict[str, str]:
    """The Scrapy setting of a crawl that has a ``previous``; else nothing."""
    if "previous" not in ctx.inputs:
        return {}
    return {
        "folder": str(ctx.inputs["previous"].path),
        "index": str(ctx.scratch / "previous.sqlite"),
    }


class EarlierCrawl:
    """The answers of an earlier crawl, looked up by URL on disk.

    Args:
        folder: its raw artifact; one without validators answers nothing.
        index: SQLite file, made anew.
    """

    def __init__(self, folder: Path, index: Path) -> None:
        self._folder = folder
        index.unlink(missing_ok=True)
        self._db = sqlite3.connect(index, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE visits (url BLOB PRIMARY KEY, at INTEGER) WITHOUT ROWID")
        path = folder / FILE
        self._lines = path.open("rb") if path.is_file() else None
        if self._lines is not None:
            self._db.execute("BEGIN")
            at = 0
            for line in self._lines:
                key = json.loads(line)["url"].encode("utf-8", "surrogatepass")
                self._db.execute("INSERT OR REPLACE INTO visits VALUES (?, ?)", (key, at))
                at += len(line)
            self._db.execute("COMMIT")

    def visit(self, url: str) -> Visit | None:
        """The answer of a URL; None where there was none, or its line is damaged."""
        key = url.encode("utf-8", "surrogatepass")
        found = self._db.execute("SELECT at FROM visits WHERE url = ?", (key,)).fetchone()
        if found is None or self._lines is None:
            return None
        self._lines.seek(found[0])
        try:
            return Visit.model_validate(json.loads(self._lines.readline()))
        except (ValueError, ValidationError):
            return None

    def body(self, visit: Visit) -> bytes | None:
        """The bytes of an answer; None where they aren't there, or aren't those."""
        try:
            if visit.what == "page":
                data = _inflated(base64.b64decode(visit.body))
            else:
                data = (self._folder / "images" / Path(visit.file_name).name).read_bytes()
        except (OSError, ValueError, zlib.error):
            return None
        return data if hashlib.sha256(data).hexdigest() == visit.sha256 else None

    def close(self) -> None:
        """Let go of its files."""
        self._db.close()
        if self._lines is not None:
            self._lines.close()


class Revalidate:
    """Downloader middleware: asks conditionally, and turns 304 into the earlier answer."""

    def __init__(self, earlier: EarlierCrawl | None, stats: Any) -> None:
        self._earlier, self._stats = earlier, stats

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        where: Mapping[str, str] = crawler.settings.getdict(SETTING)
        earlier = EarlierCrawl(Path(where["folder"]), Path(where["index"])) if where else None
        return cls(earlier, crawler.stats)

    def process_request(self, request: Any) -> None:
        """Add the conditions, where the earlier answer is there to fall back on."""
        if self._earlier is None or request.meta.get("site_rules") or request.meta.get("official"):
            return
        visit = self._earlier.visit(request.url)
        if visit is None or request.meta.get("unconditional"):
            return
        if visit.etag:
            request.headers["If-None-Match"] = visit.etag
        if visit.last_modified:
            request.headers["If-Modified-Since"] = visit.last_modified

    def process_response(self, request: Any, response: Any) -> Any:
        """The response, or the earlier one; a request without conditions where that is lost."""
        if response.status != 304 or self._earlier is None:
            return response
        visit = self._earlier.visit(request.url)
        body = self._earlier.body(visit) if visit is not None else None
        if visit is None or body is None:
            log.warning("%s has not changed, but its earlier bytes are gone", request.url)
            again = request.copy()
            for name in ("If-None-Match", "If-Modified-Since"):
                again.headers.pop(name, None)
            again.meta["unconditional"] = True
            again.dont_filter = True
            return again
        self._stats.inc_value("lora_factory/unchanged")
        from scrapy.responsetypes import responsetypes

        headers = _merged(response.headers, visit)
        kind = responsetypes.from_args(headers=headers, url=response.url, body=body)
        return kind(
            url=response.url, status=200, headers=headers, body=body, request=request,
            flags=[UNCHANGED],
        )  # fmt: skip


def _merged(new: Any, visit: Visit) -> Any:
    """The 304's headers, and what the earlier answer said; of the type only the latter."""
    from scrapy.http import Headers

    headers = Headers(new)
    for name in ("Content-Type", "Content-Length", "Content-Encoding"):
        headers.pop(name, None)
    for name, value in visit.headers:
        headers.appendlist(name, value)
    if visit.etag:
        headers.setdefault("ETag", visit.etag)
    if visit.last_modified:
        headers.setdefault("Last-Modified", visit.last_modified)
    return headers


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, MAX_PAGE + 1)
