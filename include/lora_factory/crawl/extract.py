"""HTML → text, links and images with their words and licences. Nothing in it is executed."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from bs4.element import Tag

from lora_factory.crawl.images import MIN_SIDE
from lora_factory.crawl.licences import Licence, licence_id, settle
from lora_factory.crawl.links import canonical_url, may_be_page
from lora_factory.crawl.quality import is_ad
from lora_factory.crawl.signals import RSL_TYPE
from lora_factory.crawl.structured import image_objects

MAX_LINKS = 1000  # a page
MAX_IMAGES = 1000
MAX_TEXT = 200_000  # characters
MAX_NEARBY = 500
NEARBY_LEVELS = 4
MIN_NEARBY = 20
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-full-src")
READABLE = frozenset({"", "image/jpeg", "image/png", "image/webp", "image/gif"})
SRCSET = re.compile(r"\s*([^\s,]\S*[^\s,]|[^\s,])(?:\s+(\d+(?:\.\d+)?)([wx]))?\s*(?:,|$)")

# Crawled bytes are what they are: a feed parsed as HTML is no news to anyone.
warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)


class Unparsable(ValueError):
    """The bytes can't be read as HTML."""


@dataclass(frozen=True)
class Link:
    """A link to another page."""

    url: str
    anchor: str


@dataclass(frozen=True)
class ImageRef:
    """An image on a page, before it is fetched.

    ``fault`` is the reason code why it won't be; empty where it may.
    """

    url: str
    alt: str = ""
    caption: str = ""
    nearby: str = ""
    licence: Licence = field(default_factory=Licence)
    fault: str = ""


@dataclass(frozen=True)
class Page:
    """What a page says."""

    title: str
    text: str
    ads: int
    metas: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]
    images: tuple[ImageRef, ...]
    rsl: tuple[str, ...] = ()


def parse_page(body: bytes, url: str, encoding: str | None = None) -> Page:
    """Read a page.

    Args:
        body: its bytes, from anywhere.
        url: where it was found; relative links start here unless ``<base>`` says otherwise.
        encoding: what the HTTP header says, if anything.

    Raises:
        Unparsable: the markup can't be read (nested too deeply, an impossible encoding).
    """
    try:
        soup = BeautifulSoup(body, "lxml", from_encoding=encoding)
        return _Reader(soup, url).page()
    except (RecursionError, LookupError, AssertionError, ValueError) as err:
        msg = f"{type(err).__name__}: {str(err)[:200]}"
        raise Unparsable(msg) from err


def squeeze(text: str) -> str:
    """One space between words; lone surrogates and NUL bytes gone."""
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\x00", " ")
    return " ".join(text.split())


def largest(srcset: str) -> str:
    """The candidate of a ``srcset`` with the greatest width or density; empty for none."""
    best, best_size = "", -1.0
    for url, size, unit in SRCSET.findall(srcset):
        # A width beats any density; no descriptor means 1x.
        value = float(size or 1) * (1000 if unit == "w" else 1)
        if value > best_size:
            best, best_size = url, value
    return best


class _Reader:
    """One pass over a parsed page; knows which elements hold images."""

    def __init__(self, soup: BeautifulSoup, url: str) -> None:
        self.soup, self.url = soup, url
        base = soup.find("base", href=True)
        href = _attribute(base, "href") if isinstance(base, Tag) else ""
        self.base = canonical_url(href, url) or url
        self.tags = [tag for tag in soup.find_all("img", limit=MAX_IMAGES) if isinstance(tag, Tag)]
        self.around = Counter(id(parent) for tag in self.tags for parent in tag.parents)
        self.licences = self._licence_scopes()
        said = ((canonical_url(image.url, self.base), image) for image in image_objects(soup))
        self.described = {at: image for at, image in said if at is not None}

    def page(self) -> Page:
        title = self.soup.title.get_text(" ") if self.soup.title else ""
        body = self.soup.body or self.soup
        metas = (tag for tag in self.soup.find_all("meta") if isinstance(tag, Tag))
        return Page(
            title=squeeze(title)[:300],
            text=squeeze(body.get_text(" "))[:MAX_TEXT],
            ads=sum(is_ad(_classes(tag)) for tag in body.find_all(True, class_=True)),
            metas=tuple((_attribute(tag, "name"), _attribute(tag, "content")) for tag in metas),
            links=tuple(self._links()),
            images=tuple(self._images()),
            rsl=tuple(self._rsl()),
        )

    def _rsl(self) -> Iterable[str]:
        """RSL licences of the page: they say who may train, not under which licence."""
        for tag in self.soup.find_all("link", href=True, limit=MAX_LINKS):
            if "license" in _words(tag, "rel") and _attribute(tag, "type").lower() == RSL_TYPE:
                yield canonical_url(_attribute(tag, "href"), self.base) or self.url

    def _links(self) -> Iterable[Link]:
        anchors: dict[str, str] = {}
        for tag in self.soup.find_all("a", href=True, limit=MAX_LINKS):
            if "license" in _words(tag, "rel") or licence_id(_attribute(tag, "href")) != "unknown":
                continue
            url = canonical_url(_attribute(tag, "href"), self.base)
            if url is None or not may_be_page(url):
                continue
            alts = " ".join(_attribute(image, "alt") for image in tag.find_all("img", limit=5))
            anchors[url] = squeeze(f"{anchors.get(url, '')} {tag.get_text(' ')} {alts}")[:300]
        return (Link(url, anchor) for url, anchor in anchors.items())

    def _images(self) -> Iterable[ImageRef]:
        seen: set[str] = set()
        for tag in self.tags:
            source = self._source(tag)
            url = canonical_url(source, self.base) if source else None
            if url is None or url in seen:
                continue
            seen.add(url)
            caption = self._caption(tag)
            yield ImageRef(
                url=url,
                alt=squeeze(_attribute(tag, "alt"))[:MAX_NEARBY],
                caption=(caption or self._said_caption(url))[:MAX_NEARBY],
                nearby=self._nearby(tag, caption),
                licence=self._said_licence(url) or self._licence(tag),
                fault=_fault(tag),
            )
        for url in sorted(self.described.keys() - seen):  # no element shows them
            page = self.licences.get(id(self.soup))
            yield ImageRef(
                url=url,
                caption=self._said_caption(url)[:MAX_NEARBY],
                licence=self._said_licence(url) or (settle(page) if page else Licence()),
            )

    def _said_caption(self, url: str) -> str:
        return squeeze(self.described[url].caption) if url in self.described else ""

    def _said_licence(self, url: str) -> Licence | None:
        """The licence the page's data gives this image: nearer than any link around it."""
        said = self.described[url].licence if url in self.described else ""
        return settle([canonical_url(said, self.base) or said]) if said else None

    def _source(self, tag: Tag) -> str:
        """The largest picture an ``<img>`` offers, lazy attributes before ``src``."""
        sets = [_attribute(tag, "srcset"), _attribute(tag, "data-srcset")]
        picture = tag.find_parent("picture")
        if isinstance(picture, Tag):
            for source in picture.find_all("source"):
                if _attribute(source, "type").lower() in READABLE:
                    sets += [_attribute(source, "srcset"), _attribute(source, "data-srcset")]
        found = [largest(", ".join(text for text in sets if text))]
        found += [_attribute(tag, name) for name in (*LAZY, "src")]
        return next((url for url in found if url and not url.startswith("data:")), "")

    def _caption(self, tag: Tag) -> str:
        figure = tag.find_parent("figure")
        caption = figure.find("figcaption") if isinstance(figure, Tag) else None
        return squeeze(caption.get_text(" ")) if isinstance(caption, Tag) else ""

    def _nearby(self, tag: Tag, caption: str) -> str:
        """Text of the smallest element around this image and no other, without the caption."""
        text = ""
        for _, parent in zip(range(NEARBY_LEVELS), tag.parents, strict=False):
            if self.around[id(parent)] > 1 or parent.name in {"body", "html"}:
                break
            text = squeeze(parent.get_text(" "))
            text = squeeze(text.replace(caption, " ", 1)) if caption else text
            if len(text) >= MIN_NEARBY:
                break
        return text[:MAX_NEARBY]

    def _licence_scopes(self) -> dict[int, list[str]]:
        """Element → licence links that speak for the images in it.

        A link speaks for the smallest element around it that holds an image; one that finds
        none, as in the head, speaks for the page.
        """
        scopes: dict[int, list[str]] = {}
        for tag in self.soup.find_all(["a", "link"], href=True, limit=MAX_LINKS):
            href = _attribute(tag, "href")
            if _attribute(tag, "type").lower() == RSL_TYPE:
                continue
            if "license" not in _words(tag, "rel") and licence_id(href) == "unknown":
                continue
            holder = next((p for p in tag.parents if self.around[id(p)]), self.soup)
            url = canonical_url(href, self.base) or href[:300]
            scopes.setdefault(id(holder), []).append(url)
        return scopes

    def _licence(self, tag: Tag) -> Licence:
        """What the nearest licence links say; further ones are not asked."""
        for parent in (*tag.parents, self.soup):
            if urls := self.licences.get(id(parent)):
                return settle(urls)
        return Licence()


def _fault(tag: Tag) -> str:
    sides = [_attribute(tag, "width"), _attribute(tag, "height")]
    if any(side.isascii() and side.isdigit() and int(side[:9]) < MIN_SIDE for side in sides):
        return "too_small"
    if any(is_ad(_classes(element)) for element in (tag, *tag.parents)):
        return "ads"
    return ""


def _attribute(tag: Tag, name: str) -> str:
    value = tag.get(name)
    return " ".join(value) if isinstance(value, list) else str(value or "")


def _words(tag: Tag, name: str) -> list[str]:
    return _attribute(tag, name).lower().split()


def _classes(tag: Tag) -> list[str]:
    return _words(tag, "class")
