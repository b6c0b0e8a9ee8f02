"""What of a page is its content, and what surrounds it: navigation, footers, advertisements.

The main text is trafilatura's (Barbaresi 2021; Apache-2.0 since 1.8), read off the tree that is
parsed already, in its fast mode: without the second opinions of readability and justext, which
cost half as much again and change the text of one page in five.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from lxml.etree import iterwalk

if TYPE_CHECKING:
    from lxml.html import HtmlElement

MAX_ELEMENTS = 20_000
"""Trafilatura's time grows faster than the page; more than this is no article."""
FEW_WORDS = 50
"""A main text shorter than this is a gallery's or a stub's: all but the boilerplate counts."""
AD_TOKENS = frozenset({
    "ad", "ads", "advert", "adverts", "advertisement", "advertisements", "advertising",
    "banner", "banners", "sponsor", "sponsored", "adsbygoogle",
})  # fmt: skip
LANDMARKS = frozenset({"nav", "menu"})
OUTER_LANDMARKS = frozenset({"header", "footer", "aside"})
"""Boilerplate unless they belong to an article (HTML Living Standard, 4.3: sectioning)."""
ARTICLES = frozenset({"main", "article", "section", "figure"})
ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "menu", "menubar"})
TOKENS = frozenset({
    "nav", "navbar", "navigation", "breadcrumb", "breadcrumbs", "footer", "sidebar",
    "sphinxsidebar", "navheader", "navfooter", "cookie", "cookies",
})  # fmt: skip

BLOCKS = frozenset({
    "address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure",
    "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "pre", "section", "table",
    "td", "th", "tr", "ul",
})  # fmt: skip

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # hostile pages are no news


@lru_cache(maxsize=4096)
def _class_parts(classes: str) -> frozenset[str]:
    return frozenset(re.split(r"[\s_-]+", classes.lower()))


def is_ad(classes: str) -> bool:
    """True where a class is, or has as a part between - and _, a word for advertisements.

    Whole words only: ``header``, ``shadow`` and ``download`` hold the letters "ad" and are none.
    """
    return not AD_TOKENS.isdisjoint(_class_parts(classes))


class Placement:
    """Where on a page elements stand; one page's, since it remembers their answers."""

    def __init__(self) -> None:
        self._known: dict[HtmlElement, str] = {}

    def fault(self, element: HtmlElement) -> str:
        """``ads`` or ``boilerplate`` where the element stands in such; else empty."""
        climbed = []
        found = ""
        at: HtmlElement | None = element
        while at is not None:
            if at in self._known:
                found = self._known[at]
                break
            climbed.append(at)
            at = at.getparent()
        for one in reversed(climbed):
            found = found or _own_fault(one)
            self._known[one] = found
        return found


def _own_fault(element: HtmlElement) -> str:
    tag, classes = element.tag, element.get("class") or ""
    if not isinstance(tag, str):
        return ""
    if classes and is_ad(classes):
        return "ads"
    if tag in {"html", "body"}:  # "has-sidebar" speaks of the page, not for all of it
        return ""
    if tag in LANDMARKS or (element.get("role") or "").lower() in ROLES:
        return "boilerplate"
    if tag in OUTER_LANDMARKS and not any(a.tag in ARTICLES for a in element.iterancestors()):
        return "boilerplate"
    # Whole class names only: "article-footer" may hold an author's picture.
    return "" if TOKENS.isdisjoint(classes.lower().split()) else "boilerplate"


def main_text(tree: HtmlElement) -> str:
    """The page's content, a paragraph a line. The tree is used up."""
    from trafilatura import extract

    for figure in list(tree.iter("figure", "figcaption")):
        # Trafilatura drops figures whole; what is said of a picture is content here.
        figure.tag = "div" if figure.tag == "figure" else "p"
    found = ""
    if sum(1 for _ in zip(range(MAX_ELEMENTS + 1), tree.iter(), strict=False)) <= MAX_ELEMENTS:
        found = extract(tree, fast=True, include_comments=False) or ""
    if len(found.split()) >= FEW_WORDS:
        return found
    rest = _without_boilerplate(tree)
    return rest if len(rest) > len(found) else found


def _without_boilerplate(tree: HtmlElement) -> str:
    body = tree.find("body")
    body = tree if body is None else body
    placement = Placement()
    for element in list(body.iter("*")):
        if element is not body and placement.fault(element) and element.getparent() is not None:
            element.drop_tree()
    return "\n".join(_lines(body))


def _lines(body: HtmlElement) -> Iterable[str]:
    line: list[str] = []
    for event, element in iterwalk(body, events=("start", "end")):
        if element.tag in BLOCKS:
            yield from _joined(line)
            line = []
        said = element.text if event == "start" else element.tail if element is not body else None
        line.append(said or "")
    yield from _joined(line)


def _joined(parts: list[str]) -> Iterable[str]:
    if text := " ".join(" ".join(parts).split()):
        yield text
