"""URLs in one spelling, and which links are worth following."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

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
SESSIONS = re.compile(
    r"(?:php|j)?sess(?:ion)?_?id|aspsessionid\w*|cfid|cftoken|utm_\w+|fbclid|gclid",
    re.IGNORECASE,
)
"""Query keys that name a visitor, not a page: each visit would have a URL of its own."""
MAX_SEGMENTS = 20  # of a path
MAX_REPEATS = 3  # of one segment in a path


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
        found = canonicalize_url(canonicalize_url(_without_session(joined)))
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


def _without_session(url: str) -> str:
    parts = urlsplit(url)
    path = re.sub(r";jsessionid=[^/?#]*", "", parts.path, flags=re.IGNORECASE)
    pairs = parts.query.split("&") if parts.query else []
    query = "&".join(p for p in pairs if not SESSIONS.fullmatch(unquote(p.partition("=")[0])))
    return urlunsplit(parts._replace(path=path, query=query))


def looks_endless(url: str) -> bool:
    """True where a path grows as those of spider traps do: too deep, or the same name again."""
    segments = [part for part in urlsplit(url).path.split("/") if part]
    most = max(Counter(segments).values(), default=0)
    return len(segments) > MAX_SEGMENTS or most > MAX_REPEATS


def may_be_page(url: str) -> bool:
    """False where the path ends like a picture, an archive or a style sheet."""
    name = urlsplit(url).path.rpartition("/")[2]
    return "." not in name or name.rpartition(".")[2].lower() not in NOT_PAGES


def terms(text: str) -> set[str]:
    """Content words of a text, lower case, without a plural's ending."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {singular(word) for word in words if len(word) > 1 and word not in STOP_WORDS}


def singular(word: str) -> str:
    """An English word, lower case, without a plural's ending; wrong where it only looks so."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word


class LinkScorer:
    """How likely a link leads to the topic (focused crawling: Chakrabarti et al. 1999).

    Half of the score is what the page with the link is worth, half is how many of the
    topics' words the anchor and the URL's path name (three suffice for all of it). A further
    term, from topic expansion, counts as much as its weight where all its words are named.

    Args:
        topics: of the run.
        min_relevance: what a page on topic scores.
        weights: further term → weight in (0, 1].
    """

    def __init__(
        self,
        topics: Iterable[str],
        min_relevance: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._terms = set[str]().union(*(terms(topic) for topic in topics))
        self.floor = min_relevance * PARENT_WEIGHT  # every link of a page just on topic
        # Word → terms with it, so that a link is compared with those it may name only.
        self._further: dict[str, list[tuple[float, frozenset[str]]]] = {}
        for text, weight in (weights or {}).items():
            words = frozenset(terms(text))
            if words - self._terms:
                self._further.setdefault(min(words - self._terms), []).append((weight, words))

    def score(self, url: str, anchor: str, parent: float) -> float:
        """Score of a link on a page of topic score ``parent``."""
        path = urlsplit(url).path
        words = terms(f"{anchor} {unquote(path)}")
        found = self._terms & words
        named = len(found) + self._named_further(words, found)
        named = min(1.0, named / max(1, min(3, len(self._terms))))
        return PARENT_WEIGHT * parent + (1 - PARENT_WEIGHT) * named

    def _named_further(self, words: set[str], counted: set[str]) -> float:
        """Weights of the further terms that ``words`` name; no word counts twice."""
        named = [
            (weight, term)
            for word in words & self._further.keys()
            for weight, term in self._further[word]
            if term <= words
        ]
        total = 0.0
        for weight, term in sorted(named, key=lambda one: (-one[0], sorted(one[1]))):
            if not term <= counted:
                counted = counted | term
                total += weight
        return total

    def relevant(self, score: float) -> bool:
        """Worth following?"""
        return score >= self.floor
