"""A small picture gallery on loopback: what the demo crawls, and what the crawler is tested on.

Beside rooms with icons it holds traps, each of which a crawler has to step around:

==========================  ==============================  ===================
trap                        where                           reason code
==========================  ==============================  ===================
closed by robots.txt        ``/private/studio.html``        robots_disallowed
off topic                   ``/articles/bookkeeping.html``  off_topic
another language            ``/de/galerie.html``            language
exact duplicate             ``/copies/red-apple.png``       exact_duplicate
corrupt image               ``/torn/print.png``             corrupt
dead link                   ``/rooms/lost-and-found.html``  http_404
mostly advertisements       ``/offers.html``                ads
hardly any text             ``/soon.html``                  low_entropy
page that opts out          ``/sketches.html``              opt_out
image that opts out         ``/lent/portrait.png``          opt_out
spacer                      ``/spacer.png``                 too_small
no licence, NC licence      ``/visitors.html``              licence_…
==========================  ==============================  ===================

Run it by hand: ``python -m lora_factory.demo.site --port 8800``.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageOps

log = logging.getLogger(__name__)

GALLERY = Path(__file__).resolve().parent / "gallery"
MIT = '<a rel="license" href="https://opensource.org/license/mit">MIT licence</a>'
NON_COMMERCIAL = (
    '<a rel="license" href="https://creativecommons.org/licenses/by-nc/4.0/">CC BY-NC 4.0</a>'
)
ROBOTS = "# Machines are welcome, except in the studio.\nUser-agent: *\nDisallow: /private/\n"
PLACEHOLDER = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
ADVERTISEMENTS = 40


@dataclass(frozen=True)
class Reply:
    """One HTTP response."""

    body: bytes
    kind: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def gallery() -> dict[str, Any]:
    """``icons.json``: ``categories`` by slug, and ``icons`` (name, caption, category, note)."""
    found: dict[str, Any] = json.loads((GALLERY / "icons.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1)
def _texts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GALLERY / "pages.json").read_text(encoding="utf-8"))
    return found


def _picture(name: str) -> bytes:
    return (GALLERY / "icons" / f"{name}.png").read_bytes()


def _mirrored(name: str) -> bytes:
    """A picture of its own: the icon, mirrored."""
    with Image.open(io.BytesIO(_picture(name))) as icon:
        return _png(ImageOps.mirror(icon))


def _thumbnail(name: str) -> bytes:
    with Image.open(io.BytesIO(_picture(name))) as icon:
        return _png(icon.resize((32, 32), Image.Resampling.LANCZOS))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _page(title: str, content: str, *, lang: str = "en", head: str = "", foot: str = "") -> Reply:
    html = (
        f'<!doctype html>\n<html lang="{lang}">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>{head}</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{content}\n<footer>{foot}</footer>\n</body>\n</html>\n"
    )
    return Reply(html.encode("utf-8"))


def _prose(key: str) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in _texts()[key]["paragraphs"])


def _plain(key: str, content: str = "", **kwargs: str) -> Reply:
    return _page(_texts()[key]["title"], _prose(key) + content, **kwargs)


def _figure(icon: dict[str, str], number: int, licence: str = "") -> str:
    """A figure, in one of three kinds of markup that real galleries use."""
    name, caption = icon["name"], escape(icon["caption"])
    source = f"/icons/{name}.png"
    sources = (
        f'src="{source}"',
        f'class="lazy" src="{PLACEHOLDER}" data-src="{source}"',
        f'src="/thumbs/{name}.png" srcset="/thumbs/{name}.png 32w, {source} 64w"',
    )
    return (
        f'<div class="exhibit"><figure><img {sources[number % 3]} alt="{caption}" width="64" '
        f'height="64"><figcaption>{caption.capitalize()}</figcaption>{licence}</figure>'
        f"<p>{escape(icon['note'])}</p></div>"
    )


def _image(source: str, alt: str, caption: str) -> str:
    return (
        f'<figure><img src="{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _index() -> Reply:
    rooms = "".join(
        f'<li><a href="/rooms/{slug}.html">{escape(room["title"])}</a></li>'
        for slug, room in gallery()["categories"].items()
        if slug != "visitors"
    )
    others = (
        '<ul><li><a href="/favourites.html">Favourite icons of the month</a></li>'
        '<li><a href="/visitors.html">Drawings that visitors sent in</a></li>'
        '<li><a href="/sketches.html">Sketches</a></li>'
        '<li><a href="/soon.html">More icons soon</a></li>'
        '<li><a href="/offers.html">Offers</a></li>'
        '<li><a href="/de/galerie.html" hreflang="de">Galerie auf Deutsch</a></li>'
        '<li><a href="/articles/bookkeeping.html">How we keep our books</a></li>'
        '<li><a href="/rooms/lost-and-found.html">Lost and found</a></li>'
        '<li><a href="/private/studio.html">Studio (staff only)</a></li>'
        '<li><a href="https://github.com/microsoft/fluentui-emoji">Where the icons come from</a>'
        "</li></ul>"
    )
    return _plain("index", f"<ul>{rooms}</ul>{others}", foot=f"Pictures: {MIT}.")


def _room(slug: str) -> Reply:
    room = gallery()["categories"][slug]
    figures = [
        _figure(icon, number)
        for number, icon in enumerate(i for i in gallery()["icons"] if i["category"] == slug)
    ]
    content = f"<p>{escape(room['intro'])}</p>\n" + "\n".join(figures)
    foot = f'<a href="/">Back to all icons</a>. Pictures: {MIT}.'
    return _page(f"{room['title']}: icons of the Outline Gallery", content, foot=foot)


def _visitors() -> Reply:
    """Two pictures, neither of which may be used: one says nothing, one says CC BY-NC."""
    room = gallery()["categories"]["visitors"]
    icons = [icon for icon in gallery()["icons"] if icon["category"] == "visitors"]
    figures = _figure(icons[0], 0) + _figure(
        icons[1], 0, licence=f"<small>{NON_COMMERCIAL}</small>"
    )
    return _page(room["title"], f"<p>{escape(room['intro'])}</p>{figures}")


def _favourites() -> Reply:
    content = (
        _image("/copies/red-apple.png", "red apple", "The apple, hung once more")
        + _image("/torn/print.png", "torn print", "This print was torn")
        + '<img src="/spacer.png" alt="">'
        + _image("/lent/portrait.png", "portrait of an owl", "Lent, not for machines")
    )
    return _plain("favourites", content, foot=f"Pictures: {MIT}.")


def _offers() -> Reply:
    advertisements = "".join(
        f'<div class="ad banner"><a href="/soon.html">{escape(icon["caption"])} sale</a></div>'
        for icon in gallery()["icons"][:ADVERTISEMENTS]
    )
    return _plain("offers", advertisements, foot=f"Pictures: {MIT}.")


def _pages() -> dict[str, Reply]:
    foot = f"Pictures: {MIT}."
    german = _image("/de/fuchs.png", "Fuchs", "Ein kluger Fuchs")
    sketch = _image("/sketches/gear.png", "sketch of a gear", "A gear in pencil")
    draft = _image("/private/draft.png", "draft of a key", "Unfinished key")
    more = '<p><a href="/articles/ledger.html">Filing deadlines of former years</a></p>'
    return {
        "/": _index(),
        "/favourites.html": _favourites(),
        "/visitors.html": _visitors(),
        "/offers.html": _offers(),
        "/soon.html": _plain("soon", foot=foot),
        "/sketches.html": _plain(
            "sketches", sketch, head='<meta name="robots" content="noai, noimageai">', foot=foot
        ),
        "/articles/bookkeeping.html": _plain("bookkeeping", more, foot=foot),
        "/articles/ledger.html": _plain("ledger", foot=foot),
        "/de/galerie.html": _plain("deutsch", german, lang="de", foot=foot),
        "/private/studio.html": _plain("private", draft, foot=foot),
        **{
            f"/rooms/{slug}.html": _room(slug)
            for slug in gallery()["categories"]
            if slug != "visitors"
        },
    }


def _pictures() -> dict[str, Reply]:
    names = [icon["name"] for icon in gallery()["icons"]]
    bodies = {
        **{f"/icons/{name}.png": _picture(name) for name in names},
        **{f"/thumbs/{name}.png": _thumbnail(name) for name in names},
        "/copies/red-apple.png": _picture("red-apple"),
        "/torn/print.png": _picture("castle")[:400],
        "/spacer.png": _png(Image.new("RGB", (1, 1), "white")),
        "/de/fuchs.png": _mirrored("fox"),
        "/sketches/gear.png": _mirrored("gear"),
        "/private/draft.png": _mirrored("key"),
        "/lent/portrait.png": _mirrored("owl"),
    }
    opted_out = {"/lent/portrait.png": {"X-Robots-Tag": "noai, noimageai"}}
    return {
        path: Reply(body, "image/png", opted_out.get(path, {})) for path, body in bodies.items()
    }


@lru_cache(maxsize=1)
def replies() -> dict[str, Reply]:
    """Path → what the site answers; every other path is 404."""
    robots = Reply(ROBOTS.encode(), "text/plain; charset=utf-8")
    return {"/robots.txt": robots, **_pages(), **_pictures()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer from :func:`replies`."""
        path = self.path.partition("?")[0]
        self.server.hits.append(path)
        reply = replies().get(path)
        status = 200 if reply is not None else 404
        reply = reply or _page("Not found", "<p>There is no such page.</p>")
        self.send_response(status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hits: list[str] = []


class GallerySite:
    """The gallery, served on loopback while the context is open.

    Args:
        port: TCP port; 0 takes a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._server = _Server(port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        replies()  # drawn before the first visitor comes

    @property
    def host(self) -> str:
        """``host:port``, as ``LORA_FACTORY_CRAWL_HOSTS`` wants it."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The index page: a seed."""
        return f"http://{self.host}/"

    @property
    def hits(self) -> list[str]:
        """Paths asked for so far, in order."""
        return list(self._server.hits)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lora_factory.demo.site")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with GallerySite(given.port) as site:
        log.info("gallery at %s (Ctrl-C stops it)", site.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
