"""Responses kept in the stage's scratch folder, so that a crawl that was stopped goes on.

Scrapy's own storages write several files or a pickle for a response; one killed in between
leaves an entry that can't be read. Here a response is one file, renamed into place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class ResponseCache:
    """Scrapy's HTTPCACHE_STORAGE; ``HTTPCACHE_DIR`` is the folder.

    A file holds one line of JSON (url, status, headers as latin-1 pairs), then the body.
    """

    def __init__(self, settings: Any) -> None:
        self._folder = Path(settings["HTTPCACHE_DIR"])
        self._fingerprints: Any = None

    def open_spider(self, spider: Any) -> None:
        """Called by Scrapy."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fingerprints = spider.crawler.request_fingerprinter

    def close_spider(self, spider: Any) -> None:
        """Called by Scrapy; nothing is open."""

    def retrieve_response(self, spider: Any, request: Any) -> Any:  # noqa: ARG002 - Scrapy's
        """The stored response, or None."""
        from scrapy.http import Headers
        from scrapy.responsetypes import responsetypes

        path = self._path(request)
        if not path.is_file():
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        meta = json.loads(head)
        headers = Headers()
        for name, value in meta["headers"]:
            headers.appendlist(name.encode("latin-1"), value.encode("latin-1"))
        kind = responsetypes.from_args(headers=headers, url=meta["url"], body=body)
        return kind(url=meta["url"], status=meta["status"], headers=headers, body=body)

    def store_response(self, spider: Any, request: Any, response: Any) -> None:  # noqa: ARG002
        """Store a response; complete or not at all."""
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.items()
            for value in values
        ]
        meta = {"url": response.url, "status": response.status, "headers": headers}
        path = self._path(request)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_bytes(json.dumps(meta).encode() + b"\n" + response.body)
        draft.replace(path)

    def _path(self, request: Any) -> Path:
        key = str(self._fingerprints.fingerprint(request).hex())
        return self._folder / key[:2] / key
