"""Source ``wikimedia``: images of Wikimedia Commons by search.

Endpoint: ``GET https://commons.wikimedia.org/w/api.php`` (``LORA_FACTORY_WIKIMEDIA_URL``),
``generator=search`` in the file namespace with ``imageinfo`` (url, size, mime, extmetadata).
Licence: each file's ``LicenseUrl``, or its ``LicenseShortName`` for public domain. Limits: one
request at a time, ``maxlag=5``, a User-Agent with a contact address
(``LORA_FACTORY_USER_AGENT``). Authentication: none. Pictures are asked for at no more than
1280 pixels' width, as the foundation prefers to being asked for originals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from lora_factory.crawl.extract import MAX_NEARBY, ImageRef
from lora_factory.crawl.fragments import plain, squeeze
from lora_factory.crawl.licences import UNKNOWN, Licence, licence_id
from lora_factory.crawl.sources.base import FoundImage, Listing, Unreadable

PAGE_SIZE = 50
WIDTH = 1280
KINDS = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})


class WikimediaSource:
    """Begins with one search a topic.

    Args:
        topics: what to search for.
        endpoint: ``api.php`` of a MediaWiki with CommonsMetadata.
    """

    follows_links = False
    official = True

    def __init__(self, topics: Sequence[str], endpoint: str) -> None:
        self._topics, self._endpoint = tuple(topics), endpoint
        self.headers: dict[str, str] = {}

    def pages(self) -> Sequence[str]:
        """None."""
        return ()

    def listings(self) -> Sequence[str]:
        """First results of each topic."""
        return [self._search(topic, {}) for topic in self._topics]

    def read(self, body: bytes, url: str) -> Listing:
        """One page of results, and the next.

        Raises:
            Unreadable: the answer is not MediaWiki's, or an error of its.
        """
        try:
            data: Any = json.loads(body)
            if "error" in data:
                msg = f"{url} answers: {str(data['error'].get('info', ''))[:200]}"
                raise Unreadable(msg)
            pages = list(data.get("query", {}).get("pages", {}).values())
            follow = {str(k): str(v) for k, v in data.get("continue", {}).items()}
        except (ValueError, TypeError, AttributeError) as err:
            if isinstance(err, Unreadable):
                raise
            msg = f"{url} doesn't answer as MediaWiki does: {type(err).__name__}"
            raise Unreadable(msg) from err
        topic = _topic_of(url)
        found = [image for page in pages if (image := _image(page))]
        return Listing(images=found, more=[self._search(topic, follow)] if follow else [])

    def _search(self, topic: str, follow: dict[str, str]) -> str:
        query = {
            "action": "query",
            "format": "json",
            "maxlag": "5",
            "generator": "search",
            "gsrsearch": f"{topic} filetype:bitmap",
            "gsrnamespace": "6",
            "gsrlimit": str(PAGE_SIZE),
            "prop": "imageinfo",
            "iiprop": "url|size|mime|extmetadata",
            "iiurlwidth": str(WIDTH),
            **follow,
        }
        parts = urlsplit(self._endpoint)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))


def _topic_of(url: str) -> str:
    search = parse_qs(urlsplit(url).query).get("gsrsearch", [""])[0]
    return search.removesuffix(" filetype:bitmap")


def _image(page: Any) -> FoundImage | None:
    try:
        info = page["imageinfo"][0]
        meta = info.get("extmetadata", {})
        url, kind = info.get("thumburl") or info["url"], info.get("mime", "")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if kind not in KINDS or not isinstance(url, str):
        return None
    title = str(page.get("title", "")).removeprefix("File:").rpartition(".")[0]
    categories = _meta(meta, "Categories").replace("|", ", ")
    ref = ImageRef(
        url=url,
        alt=squeeze(title.replace("_", " "))[:MAX_NEARBY],
        caption=_meta(meta, "ImageDescription")[:MAX_NEARBY],
        nearby=categories[:MAX_NEARBY],
        licence=_licence(meta),
    )
    return FoundImage(ref, str(info.get("descriptionurl", "")), ref.alt)


def _licence(meta: Any) -> Licence:
    url, name = _meta(meta, "LicenseUrl"), _meta(meta, "LicenseShortName")
    if url:
        return Licence(licence_id(url), url[:300])
    if name.lower() in {"public domain", "pd"}:
        return Licence("PDM-1.0", f"LicenseShortName: {name}")
    return Licence(UNKNOWN, name[:300])


def _meta(meta: Any, name: str) -> str:
    """One value of extmetadata as plain text: its values are HTML."""
    entry = meta.get(name) if isinstance(meta, dict) else None
    value = entry.get("value") if isinstance(entry, dict) else None
    if not isinstance(value, str):
        return ""
    return plain(value)
