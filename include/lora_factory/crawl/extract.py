"""HTML → text, links and images with their words and licences. Nothing in it is executed.

A page is parsed once, by lxml (libxml2: tolerant, no more than 256 levels deep); everything is
read off that tree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from lxml import etree
from lxml.html import HtmlElement, HTMLParser, document_fromstring
from w3lib.encoding import html_to_unicode

from lora_factory.crawl import quality
from lora_factory.crawl.boilerplate import Placement, is_ad, main_text
from lora_factory.crawl.fragments import plain, squeeze
from lora_factory.crawl.images import MIN_SIDE
from lora_factory.crawl.licences import Licence, licence_id, settle
from lora_factory.crawl.links import canonical_url, may_be_page
from lora_factory.crawl.signals import RSL_TYPE
from lora_factory.crawl.structured import ImageObject, image_objects

MAX_LINKS = 1000  # a page
MAX_IMAGES = 1000
MAX_TEXT = 200_000  # characters
MAX_NEARBY = 500
NEARBY_LEVELS = 4
MIN_NEARBY = 20
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-full-src")
LAZY_SETS = ("srcset", "data-srcset", "data-lazy-srcset")
CAPTIONS = ("data-caption", "data-image-caption", "data-sub-html")
"""Where galleries keep what they show below an enlarged picture; HTML, on it or on its link."""
READABLE = frozenset({"", "image/jpeg", "image/png", "image/webp", "image/gif"})
SRCSET = re.compile(r"\s*([^\s,]\S*[^\s,]|[^\s,])(?:\s+(\d+(?:\.\d+)?)([wx]))?\s*(?:,|$)")
MAX_ATTRIBUTES = 4000  # a tag
TAG = re.compile(r"""<[a-zA-Z](?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+""")
"""A start tag up to its ``>``; possessive, so that it is linear in any text."""
UNSEEN = ("script", "style", "template", "noscript")


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
    """What a page says.

    ``text`` is its main text, a paragraph a line; ``words`` are those of the whole page, and
    ``ads`` its advertising elements.
    """

    title: str
    text: str
    words: int
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
        Unparsable: the markup can't be read (empty, an impossible encoding).
    """
    try:
        return _Reader(_tree(body, encoding), url).page()
    except Unparsable:
        raise
    except Exception as err:
        # The one boundary: libraries fail on hostile markup in ways of their own; the page is
        # counted as unparsable.
        msg = f"{type(err).__name__}: {str(err)[:200]}"
        raise Unparsable(msg) from err


def _tree(body: bytes, encoding: str | None) -> HtmlElement:
    """Parse; a byte order mark beats the header, the header the markup (WHATWG, Encoding)."""
    header = f"text/html; charset={encoding}" if encoding else None
    _, text = html_to_unicode(header, body, auto_detect_fun=_guess)
    text = text.replace("\x00", "\ufffd")
    _refuse_overlong_tags(text)
    parser = HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)
    return document_fromstring(
        text.encode("utf-8", "replace"), parser=parser, ensure_head_body=True
    )


def _refuse_overlong_tags(text: str) -> None:
    """libxml2 compares each attribute of a tag with all others: 100,000 take half a minute."""
    for tag in TAG.finditer(text):
        if tag.end() - tag.start() < 2 * MAX_ATTRIBUTES:
            continue
        names = re.sub(r""""[^"]*"|'[^']*'""", " ", tag.group())
        if len(re.findall(r"[^\s/=]+", names)) > MAX_ATTRIBUTES:
            msg = f"a tag of more than {MAX_ATTRIBUTES} attributes"
            raise Unparsable(msg)


def _guess(body: bytes) -> str:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


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

    def __init__(self, tree: HtmlElement, url: str) -> None:
        self.tree, self.url = tree, url
        base = tree.find(".//base[@href]")
        self.base = (
            canonical_url(_attribute(base, "href"), url) if base is not None else ""
        ) or url
        self.described: dict[str, ImageObject] = {}
        for image in image_objects(tree):  # the first tells more: og:image comes last
            if (at := canonical_url(image.url, self.base)) is not None:
                self.described.setdefault(at, image)
        # noscript stays until its images are read: that is where lazy pages put them.
        etree.strip_elements(tree, "script", "style", "template", with_tail=False)
        self.tags = _first(tree.iter("img"), MAX_IMAGES)
        self.around = Counter(parent for tag in self.tags for parent in tag.iterancestors())
        self.placement = Placement()
        self.licences = self._licence_scopes()

    def page(self) -> Page:
        title = self.tree.find(".//title")
        metas = tuple(
            (_attribute(tag, "name"), _attribute(tag, "content")) for tag in self.tree.iter("meta")
        )
        links, images = tuple(self._links()), tuple(self._images())
        rsl = tuple(self._rsl())
        etree.strip_elements(self.tree, *UNSEEN, with_tail=False)
        body = self.tree.find("body")
        body = self.tree if body is None else body
        return Page(
            title=_text(title)[:300] if title is not None else "",
            words=len(quality.words(_text(body)[:MAX_TEXT])),
            ads=sum(is_ad(tag.get("class")) for tag in body.iterfind(".//*[@class]")),
            metas=metas,
            links=links,
            images=images,
            rsl=rsl,
            text=_paragraphs(main_text(self.tree))[:MAX_TEXT],  # last: it uses up the tree
        )

    def _all(self, *names: str) -> list[HtmlElement]:
        return _first(self.tree.iter(*names), MAX_LINKS)

    def _rsl(self) -> Iterable[str]:
        """RSL licences of the page: they say who may train, not under which licence."""
        for tag in self._all("link"):
            if "license" in _words(tag, "rel") and _attribute(tag, "type").lower() == RSL_TYPE:
                yield canonical_url(_attribute(tag, "href"), self.base) or self.url

    def _links(self) -> Iterable[Link]:
        anchors: dict[str, str] = {}
        for tag in self._all("a"):
            href = tag.get("href")
            if href is None or "license" in _words(tag, "rel") or licence_id(href) != "unknown":
                continue
            url = canonical_url(href, self.base)
            if url is None or not may_be_page(url):
                continue
            alts = " ".join(_attribute(image, "alt") for image in _first(tag.iter("img"), 5))
            anchors[url] = squeeze(f"{anchors.get(url, '')} {_text(tag)} {alts}")[:300]
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
                alt=plain(_attribute(tag, "alt"))[:MAX_NEARBY],
                caption=(caption or self._said_caption(url))[:MAX_NEARBY],
                nearby=self._nearby(tag, caption),
                licence=self._said_licence(url) or self._licence(tag),
                fault=_small(tag) or self.placement.fault(tag),
            )
        for url in sorted(self.described.keys() - seen):  # no element shows them
            page = self.licences.get(self.tree)
            yield ImageRef(
                url=url,
                caption=self._said_caption(url)[:MAX_NEARBY],
                licence=self._said_licence(url) or (settle(page) if page else Licence()),
            )

    def _said_caption(self, url: str) -> str:
        return plain(self.described[url].caption) if url in self.described else ""

    def _said_licence(self, url: str) -> Licence | None:
        """The licence the page's data gives this image: nearer than any link around it."""
        said = self.described[url].licence if url in self.described else ""
        return settle([canonical_url(said, self.base) or said]) if said else None

    def _source(self, tag: HtmlElement) -> str:
        """The largest picture an ``<img>`` offers, lazy attributes before ``src``."""
        sets = [_attribute(tag, name) for name in LAZY_SETS]
        picture = next(tag.iterancestors("picture"), None)
        if picture is not None:
            for source in picture.iter("source"):
                if _attribute(source, "type").lower() in READABLE:
                    sets += [_attribute(source, name) for name in LAZY_SETS]
        found = [largest(", ".join(text for text in sets if text))]
        found += [_attribute(tag, name) for name in (*LAZY, "src")]
        return next((url for url in found if url and not url.startswith("data:")), "")

    def _caption(self, tag: HtmlElement) -> str:
        figure = next(tag.iterancestors("figure"), None)
        caption = figure.find(".//figcaption") if figure is not None else None
        if caption is not None:
            return _text(caption)
        kept = (_attribute(at, name) for at in (tag, tag.getparent()) for name in CAPTIONS)
        return next((words for words in map(plain, kept) if words), "")

    def _nearby(self, tag: HtmlElement, caption: str) -> str:
        """Text of the smallest element around this image and no other, without the caption."""
        text = ""
        for _, parent in zip(range(NEARBY_LEVELS), tag.iterancestors(), strict=False):
            if self.around[parent] > 1 or parent.tag in {"body", "html"}:
                break
            text = _text(parent)
            text = squeeze(text.replace(caption, " ", 1)) if caption else text
            if len(text) >= MIN_NEARBY:
                break
        return text[:MAX_NEARBY]

    def _licence_scopes(self) -> dict[HtmlElement, list[str]]:
        """Element → licence links that speak for the images in it.

        A link speaks for the smallest element around it that holds an image; one that finds
        none, as in the head, speaks for the page.
        """
        scopes: dict[HtmlElement, list[str]] = {}
        for tag in self._all("a", "link"):
            href = tag.get("href")
            if href is None or _attribute(tag, "type").lower() == RSL_TYPE:
                continue
            if "license" not in _words(tag, "rel") and licence_id(href) == "unknown":
                continue
            holder = next((p for p in tag.iterancestors() if self.around[p]), self.tree)
            url = canonical_url(href, self.base) or href[:300]
            scopes.setdefault(holder, []).append(url)
        return scopes

    def _licence(self, tag: HtmlElement) -> Licence:
        """What the nearest licence links say; further ones are not asked."""
        for parent in tag.iterancestors():
            if urls := self.licences.get(parent):
                return settle(urls)
        return Licence()


def _first(tags: Iterable[HtmlElement], limit: int) -> list[HtmlElement]:
    return [tag for _, tag in zip(range(limit), tags, strict=False)]


def _small(tag: HtmlElement) -> str:
    sides = [_attribute(tag, "width"), _attribute(tag, "height")]
    small = any(side.isascii() and side.isdigit() and int(side[:9]) < MIN_SIDE for side in sides)
    return "too_small" if small else ""


def _text(tag: HtmlElement) -> str:
    return squeeze(" ".join(tag.itertext()))


def _paragraphs(text: str) -> str:
    return "\n".join(line for line in map(squeeze, text.splitlines()) if line)


def _attribute(tag: HtmlElement, name: str) -> str:
    return str(tag.get(name) or "")


def _words(tag: HtmlElement, name: str) -> list[str]:
    return _attribute(tag, name).lower().split()
