"""Source ``openverse``: openly licensed images by search, from a catalogue of 800 million.

Endpoint: ``GET https://api.openverse.org/v1/images/`` (``LORA_FACTORY_OPENVERSE_URL``), fields
``q``, ``license``, ``page``, ``page_size``, ``mature=false``. Licence: each result carries its
own (code and version); the catalogue passes on what the provider said and doesn't vouch for
it. Limits: without a token 20 results a page and few requests an hour, with one (OAuth2 client
credentials, ``LORA_FACTORY_OPENVERSE_TOKEN``) more; 429 ends the listing with what there is.
The terms forbid copying the catalogue: ask for what a topic needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from lora_factory.crawl.extract import MAX_NEARBY, ImageRef
from lora_factory.crawl.fragments import squeeze
from lora_factory.crawl.licences import UNKNOWN, Licence
from lora_factory.crawl.sources.base import FoundImage, Listing, Unreadable

PAGE_SIZE = 20
CODES = {"CC0-1.0": "cc0", "PDM-1.0": "pdm"}


class OpenverseSource:
    """Begins with one search a topic.

    Args:
        topics: what to search for.
        licences: SPDX-like ids; those Openverse knows narrow the search.
        endpoint: of the API.
        token: access token; empty: anonymous.
    """

    follows_links = False
    official = True

    def __init__(
        self, topics: Sequence[str], licences: Sequence[str], endpoint: str, token: str = ""
    ) -> None:
        self._topics, self._endpoint = tuple(topics), endpoint
        self._codes = sorted({code for name in licences if (code := _code(name))})
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def pages(self) -> Sequence[str]:
        """None."""
        return ()

    def listings(self) -> Sequence[str]:
        """First page of results of each topic."""
        return [self._search(topic, 1) for topic in self._topics]

    def read(self, body: bytes, url: str) -> Listing:
        """One page of results, and the next.

        Raises:
            Unreadable: the answer is not Openverse's.
        """
        try:
            data: Any = json.loads(body)
            results, pages = list(data["results"]), int(data.get("page_count", 1))
        except (ValueError, TypeError, KeyError) as err:
            msg = f"{url} doesn't answer as Openverse does: {type(err).__name__}"
            raise Unreadable(msg) from err
        found = [image for result in results if (image := _image(result))]
        query = dict(parse_qsl(urlsplit(url).query))
        page = int(query.get("page", "1"))
        more = [self._search(query.get("q", ""), page + 1)] if found and page < pages else []
        return Listing(images=found, more=more)

    def _search(self, topic: str, page: int) -> str:
        query = {"q": topic, "page": page, "page_size": PAGE_SIZE, "mature": "false"}
        if self._codes:
            query["license"] = ",".join(self._codes)
        parts = urlsplit(self._endpoint)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))


def _image(result: Any) -> FoundImage | None:
    if not isinstance(result, dict) or not isinstance(result.get("url"), str):
        return None
    title = squeeze(_text(result.get("title")))[:MAX_NEARBY]
    tags = [_text(tag.get("name")) for tag in result.get("tags") or () if isinstance(tag, dict)]
    page = _text(result.get("foreign_landing_url"))
    ref = ImageRef(
        url=result["url"],
        alt=title,
        nearby=squeeze(", ".join(tags))[:MAX_NEARBY],
        licence=Licence(_licence(result), _text(result.get("license_url"))[:300]),
    )
    return FoundImage(ref, page, title)


def _licence(result: dict[str, Any]) -> str:
    """Openverse's code and version → id: by-sa 4.0 is CC-BY-SA-4.0."""
    code, version = _text(result.get("license")).lower(), _text(result.get("license_version"))
    for name, known in CODES.items():
        if code == known:
            return name
    parts = set(code.split("-"))
    if "by" in parts and parts <= {"by", "sa", "nc", "nd"} and version:
        return f"CC-{code.upper()}-{version}"
    return UNKNOWN


def _code(licence: str) -> str:
    if licence in CODES:
        return CODES[licence]
    return licence[3:].rpartition("-")[0].lower() if licence.startswith("CC-BY") else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
