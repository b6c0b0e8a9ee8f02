"""Source ``sitemap``: pages and images that a site lists for crawlers (sitemaps.org 0.9).

Endpoint: the sitemap URLs in ``seeds``; an index leads to further ones, gzip is understood.
Licence: what each page says. Limits: robots.txt
as for pages. Authentication: none. Pages are taken as listed, links in them aren't followed.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from typing import Any

from lora_factory.crawl.sources.base import Listing, Unreadable

MAX_BYTES = 50 * 1024 * 1024  # of one sitemap, unpacked (the protocol's own limit)
MAX_ENTRIES = 50_000


class SitemapSource:
    """Begins with sitemaps."""

    follows_links = False
    official = False

    def __init__(self, seeds: Sequence[str]) -> None:
        self._seeds = tuple(seeds)
        self.headers: dict[str, str] = {}

    def pages(self) -> Sequence[str]:
        """None."""
        return ()

    def listings(self) -> Sequence[str]:
        """The sitemaps."""
        return self._seeds

    def read(self, body: bytes, url: str) -> Listing:
        """Pages of a ``urlset``, sitemaps of a ``sitemapindex``, lines of a text sitemap.

        Raises:
            Unreadable: it is none of these.
        """
        body = _unpacked(body, url)
        if body.lstrip()[:1] != b"<":
            lines = body.decode("utf-8-sig", "replace").split()
            pages = [line for line in lines if line.startswith(("http://", "https://"))]
            if not pages:
                msg = f"{url} is no sitemap: neither XML nor a list of URLs"
                raise Unreadable(msg)
            return Listing(pages=pages[:MAX_ENTRIES])
        root = _parse(body, url)
        kind = root.tag.rpartition("}")[2]
        if kind not in {"urlset", "sitemapindex"}:
            msg = f"{url} is no sitemap: its root is <{kind[:40]}>"
            raise Unreadable(msg)
        entries = [
            (found.text or "").strip()
            for found in root.iterfind("{*}url/{*}loc" if kind == "urlset" else "{*}sitemap/{*}loc")
        ][:MAX_ENTRIES]
        return Listing(pages=entries) if kind == "urlset" else Listing(more=entries)


def _unpacked(body: bytes, url: str) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            unpacked = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        msg = f"{url} can't be unpacked: {err}"
        raise Unreadable(msg) from err
    if len(unpacked) > MAX_BYTES:
        msg = f"{url} unpacks to more than {MAX_BYTES} bytes"
        raise Unreadable(msg)
    return unpacked


def _parse(body: bytes, url: str) -> Any:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as err:
        msg = f"{url} can't be read as XML: {str(err)[:200]}"
        raise Unreadable(msg) from err
