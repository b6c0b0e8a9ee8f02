"""URLs in one spelling, and which links are worth following."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urljoin, urlsplit

from w3lib.url import canonicalize_url

from lora_factory.crawl.hosts import DEFAULT_PORTS, host_and_port

MAX_URL = 2000
_SUFFIXES = """
    png jpg jpeg webp gif bmp svg ico avif tif tiff mp3 mp4 ogg webm wav avi mov zip gz tar 7z rar
    pdf doc docx xls xlsx ppt pptx css js json xml rss atom exe dmg iso woff woff2 ttf
"""
_COMMON = """
    a an and are as at by for from in into is it of on or our some that the their these this to
    with your www http https html htm php index page
"""
NOT_PAGES = frozenset(_SUFFIXES.split())
STOP_WORDS = frozenset(_COMMON.split())
PARENT_WEIGHT = 0.5


def canonical_url(url: str, base: str = "") -> str | None:
    """One spelling of an http(s) URL: host in lower case, sorted query, no fragment.

    None for anything a crawler must not follow: other schemes, credentials, broken or
    overlong URLs. Never raises; the result is a fixed point.
    """
    if len(url) > MAX_URL or any(ord(char) < 32 for char in url.strip()):
        return None
    try:
        joined = urljoin(base, url.strip())
        if host_and_port(joined) is None:
            return None
        # Once more: decoding an escape may have made a new one to normalise.
        found = canonicalize_url(canonicalize_url(joined))
        parts = urlsplit(found)
        if host_and_port(found) is None or not parts.hostname:
            return None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = "" if parts.port in {None, DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    except (ValueError, UnicodeError):
        return None
    query = f"?{parts.query}" if parts.query else ""
    found = f"{parts.scheme}://{host}{port}{parts.path or '/'}{query}"
    return found if len(found) <= MAX_URL and re.fullmatch(r"[!-~]+", found) else None


def may_be_page(url: str) -> bool:
    """False where the path ends like a picture, an archive or a style sheet."""
    name = urlsplit(url).path.rpartition("/")[2]
    return "." not in name or name.rpartition(".")[2].lower() not in NOT_PAGES


def terms(text: str) -> set[str]:
    """Content words of a text, lower case, without a plural's ending."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {_singular(word) for word in words if len(word) > 1 and word not in STOP_WORDS}


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word


class LinkScorer:
    """How likely a link leads to the topic (focused crawling: Chakrabarti et al. 1999).

    Half of the score is what the page with the link is worth, half is how many of the
    topics' words the anchor and the URL's path name (three suffice for all of it).
    """

    def __init__(self, topics: Iterable[str], min_relevance: float) -> None:
        self._terms = set[str]().union(*(terms(topic) for topic in topics))
        self.floor = min_relevance * PARENT_WEIGHT  # every link of a page just on topic

    def score(self, url: str, anchor: str, parent: float) -> float:
        """Score of a link on a page of topic score ``parent``."""
        path = urlsplit(url).path
        found = self._terms & terms(f"{anchor} {unquote(path)}")
        named = min(1.0, len(found) / max(1, min(3, len(self._terms))))
        return PARENT_WEIGHT * parent + (1 - PARENT_WEIGHT) * named

    def relevant(self, score: float) -> bool:
        """Worth following?"""
        return score >= self.floor
