"""Images that a page describes in data: JSON-LD ``ImageObject`` and ``og:image``.

schema.org's ``license`` and ``acquireLicensePage`` are what search engines read as an image's
licence; only ``license`` is one here. Nested data is walked to a bounded depth; markup that
is no JSON is ignored, as browsers do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lxml.html import HtmlElement

MAX_SCRIPTS = 50
MAX_CHARACTERS = 500_000
MAX_DEPTH = 8
MAX_NODES = 5000


@dataclass(frozen=True)
class ImageObject:
    """An image as the page's data tells it; texts and links as they stand there."""

    url: str
    licence: str = ""
    caption: str = ""


def image_objects(tree: HtmlElement) -> Iterator[ImageObject]:
    """Every image the page's JSON-LD names, then its ``og:image``."""
    scripts = tree.iterfind(".//script[@type='application/ld+json']")
    for _, script in zip(range(MAX_SCRIPTS), scripts, strict=False):
        text = script.text or ""
        if len(text) > MAX_CHARACTERS:
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            continue
        yield from (found for node in _nodes(data) if (found := _image(node)))
    for meta in tree.iterfind(".//meta[@property]"):
        if meta.get("property") in {"og:image", "og:image:url", "og:image:secure_url"}:
            yield ImageObject(_text(meta.get("content")))


def _nodes(data: Any) -> Iterator[dict[str, Any]]:
    """Objects of a JSON value, outer ones first."""
    waiting, count = [(data, 0)], 0
    while waiting and count < MAX_NODES:
        value, depth = waiting.pop(0)
        count += 1
        if isinstance(value, dict):
            yield value
        if depth < MAX_DEPTH and isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in inner if isinstance(item, dict | list)]


def _image(node: dict[str, Any]) -> ImageObject | None:
    kinds = node.get("@type")
    if "ImageObject" not in (kinds if isinstance(kinds, list) else [kinds]):
        return None
    url = _text(node.get("contentUrl")) or _text(node.get("url"))
    if not url:
        return None
    licence = node.get("license")
    if isinstance(licence, dict):  # a CreativeWork
        licence = licence.get("url") or licence.get("@id")
    caption = _text(node.get("caption")) or _text(node.get("name"))
    return ImageObject(url, _text(licence), caption)


def _text(value: Any) -> str:
    return value.strip()[:2000] if isinstance(value, str) else ""
