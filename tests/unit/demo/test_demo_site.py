from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from html.parser import HTMLParser

import pytest
from PIL import Image

from lora_factory.demo.site import GALLERY, GallerySite, gallery, replies

CATEGORIES = 16


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as response:
        return bytes(response.read())


def test_the_collection_is_what_its_list_says() -> None:
    icons = gallery()["icons"]
    shown = [icon for icon in icons if icon["category"] != "visitors"]
    assert len(shown) == 150
    assert len(gallery()["categories"]) == CATEGORIES + 1
    names = {icon["name"] for icon in icons}
    assert len(names) == len(icons)
    assert {path.stem for path in (GALLERY / "icons").glob("*.png")} == names
    assert len({icon["note"] for icon in icons}) == len(icons)
    for icon in icons:
        assert icon["caption"] == icon["name"].replace("-", " ")
        assert icon["category"] in gallery()["categories"]


def test_icons_are_small_dark_drawings_on_white() -> None:
    total = 0
    digests = set()
    for path in (GALLERY / "icons").glob("*.png"):
        total += path.stat().st_size
        with Image.open(path) as icon:
            assert (icon.mode, icon.size) == ("RGB", (64, 64))
            grey = icon.convert("L")
            share = sum(grey.histogram()[:128]) / 64**2
            assert 0.03 < share < 0.7, path.name
            # grey only: black on white
            assert max(channel[1] for channel in icon.getextrema()) == 255
            digests.add(hashlib.sha256(icon.tobytes()).hexdigest())
    assert len(digests) == len(gallery()["icons"])
    assert total < 1_000_000
    assert "MIT License" in (GALLERY / "LICENSE.txt").read_text(encoding="utf-8")


def test_it_serves_and_remembers() -> None:
    with GallerySite() as site:
        assert b"The Outline Gallery" in get(site.url)
        assert b"Disallow: /private/" in get(f"{site.url}robots.txt")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{site.url}rooms/lost-and-found.html")
        assert site.hits == ["/", "/robots.txt", "/rooms/lost-and-found.html"]
        other = site.host
    with pytest.raises(urllib.error.URLError):
        get(f"http://{other}/")


class Links(HTMLParser):
    """Links and image sources of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src", "data-src"} and value and value.startswith("/"):
                self.found.add(value)


def test_only_the_dead_link_is_dead() -> None:
    pages = {path: r.body.decode() for path, r in replies().items() if "html" in r.kind}
    linked = set().union(*(Links(html).found for html in pages.values()))
    assert linked - set(replies()) == {"/rooms/lost-and-found.html"}
    assert set(pages) - linked == set()


def test_traps_are_what_they_claim() -> None:
    answers = replies()
    assert answers["/copies/red-apple.png"].body == answers["/icons/red-apple.png"].body
    assert answers["/lent/portrait.png"].headers == {"X-Robots-Tag": "noai, noimageai"}
    assert not answers["/torn/print.png"].body.endswith(b"IEND\xaeB`\x82")
