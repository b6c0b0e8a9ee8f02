"""Every way a site can reserve its pictures against training, asked of real servers."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable

import pytest
from crawl_rig import Crawl, WebServer
from PIL import Image

pytestmark = pytest.mark.integration

PROSE = (
    "Welcome to a small collection of emoji icons. Everything here was drawn in the same manner: "
    "black shapes on white paper, an outline of constant weight, rounded corners, and just enough "
    "detail to tell a doughnut from a wheel. The rooms of the gallery follow everyday subjects, "
    "animals first, on land and under water, then food, tools, vehicles, weather and objects."
)
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
RSL = (
    '<rsl xmlns="https://rslstandard.org/rsl"><content url="{url}"><license>'
    '<prohibits type="usage">ai-train</prohibits></license></content></rsl>'
)
PNG = {"Content-Type": "image/png"}
TDMREP = "/.well-known/tdmrep.json"


def page(content: str = "", head: str = "", licence: str = CC0) -> str:
    """A page on topic."""
    link = f'<a rel="license" href="{licence}">licence</a>' if licence else ""
    title = "Icons of animals, food and objects"
    return (
        f"<html><head><title>{title}</title>{head}</head>"
        f"<body><p>{PROSE}</p>{content}{link}</body></html>"
    )


def picture(seed: int) -> bytes:
    """A PNG of its own."""
    out = io.BytesIO()
    noise = random.Random(seed).randbytes(32 * 32 * 3)
    Image.frombytes("RGB", (32, 32), noise).save(out, "PNG")
    return out.getvalue()


# path → the page's markup, and its headers
MARKED: dict[str, tuple[str, dict[str, str]]] = {
    "/noai": ('<meta name="robots" content="noai">', {}),
    "/noml": ('<META NAME="Robots" CONTENT="index, NOML">', {}),
    "/named": ('<meta name="lorafactorybot" content="noindex">', {}),
    "/none": ('<meta name="robots" content="none">', {}),
    "/noindex-header": ("", {"X_Robots_Tag": "noindex"}),
    "/noai-header": ("", {"X_Robots_Tag": "max-snippet:-1, noai"}),
}


class Sites:
    """One server a protocol; ``home`` links to them all."""

    def __init__(self, new_server: Callable[[], WebServer]) -> None:
        names = (
            "home",
            "other",
            "busy",
            "signal",
            "usage",
            "tdmrep",
            "broken",
            "rsl",
            "unread",
            "local",
        )
        self.of = {name: new_server() for name in names}
        for name, server in self.of.items():
            server.html("/", page("<img src=/a.png>" if name != "home" else ""))
            server.answers["/a.png"] = (200, PNG, picture(len(name) * 100 + ord(name[0])))
        self._pages(self.of["home"])
        self._rules()

    def _pages(self, home: WebServer) -> None:
        links = [self.of[name].url() for name in self.of if name != "home"]
        paths = (
            "/meta", "/tdm", "/header", "/signal", "/link", "/rsl-link", "/pictures", "/data",
            *MARKED, "/noimageai", "/noimageindex", "/tagged-images",
        )  # fmt: skip
        anchors = "".join(
            f'<a href="{url}">more icons of animals and food</a>' for url in (*links, *paths)
        )
        home.html("/", page(anchors))
        home.html("/meta", page(head='<meta name="tdm-reservation" content="1">'))
        home.html("/tdm", page(), tdm_reservation="1")
        home.html("/header", page(), Content_Usage="train-ai=n")
        home.html("/signal", page(), Content_Signal="search=yes, ai-train=no")
        for path, (meta, headers) in MARKED.items():
            home.html(path, page(head=meta), **headers)
        for name in ("noimageai", "noimageindex"):
            shown = page(f"<img src=/{name}-shown.png>", f'<meta name=robots content="{name}">')
            home.html(f"/{name}", shown)
        home.html("/tagged-images", page("<img src=/tagged.png>"), X_Robots_Tag="noimageai")
        rsl = 'rel="license" type="application/rsl+xml"'
        home.html("/link", page(head=f'<link {rsl} href="/no.xml">'))
        home.html("/rsl-link", page(), Link='</no.xml>; rel="license"; type="application/rsl+xml"')
        home.answers["/no.xml"] = (200, {}, RSL.format(url="/").encode())
        reserved = {
            "noai": {"X-Robots-Tag": "noai"},
            "noml": {"X-Robots-Tag": "all, noml"},
            "noimageai": {"X-Robots-Tag": "noimageai"},
            "noindex": {"X-Robots-Tag": "noindex, nofollow"},
            "ours": {"X-Robots-Tag": "lorafactorybot: noimageindex"},
            "theirs": {"X-Robots-Tag": "otherbot: noai"},
            "signal": {"Content-Signal": "ai-train=no"},
            "tdm": {"TDM-Reservation": "1"},
            "usage": {"Content-Usage": "train-ai=n"},
            "rsl": {"Link": '</no.xml>; rel="license"; type="application/rsl+xml"'},
            "open": {"TDM-Reservation": "0", "Content-Usage": "train-ai=y"},
        }
        tags = "".join(f"<img src=/{name}.png>" for name in reserved)
        home.html("/pictures", page(tags))
        for number, (name, headers) in enumerate(reserved.items()):
            home.answers[f"/{name}.png"] = (200, {**PNG, **headers}, picture(number))
        self._data(home)

    def _data(self, home: WebServer) -> None:
        described = [
            {"@type": "ImageObject", "contentUrl": "/free.png", "license": CC0, "name": "A cat"},
            {"@type": "ImageObject", "contentUrl": "/mine.png", "license": "https://e.org/mine"},
        ]
        data = json.dumps({"@context": "https://schema.org", "@graph": described})
        script = f'<script type="application/ld+json">{data}</script>'
        home.html("/data", page(f"<img src=/free.png><img src=/none.png>{script}", licence=""))
        home.answers["/free.png"] = (200, PNG, picture(11))

    def _rules(self) -> None:
        def robots(name: str, text: str) -> None:
            self.of[name].answers["/robots.txt"] = (200, {}, text.encode())

        robots("other", "User-agent: *\nDisallow: /a.png\n")
        self.of["busy"].answers["/robots.txt"] = (429, {}, b"")
        robots("signal", "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n")
        robots("usage", "User-agent: *\nContent-Usage: /a train-ai=n\nAllow: /\n")
        body = json.dumps([{"location": "/a*", "tdm-reservation": 1}]).encode()
        self.of["tdmrep"].answers[TDMREP] = (200, {}, body)
        self.of["broken"].answers[TDMREP] = (503, {}, b"")
        robots("rsl", "License: /rsl.xml\nUser-agent: *\nAllow: /\n")
        self.of["rsl"].answers["/rsl.xml"] = (200, {}, RSL.format(url="/").encode())
        robots("unread", "License: http://localhost:9/rsl.xml\n")
        robots("local", "License: /rsl.xml\n")
        self.of["local"].answers["/rsl.xml"] = (200, {}, RSL.format(url="/a.png").encode())


Visited = tuple[Crawl, Sites]


@pytest.fixture(scope="module")
def visited(new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]) -> Visited:
    """One crawl over all of them."""
    sites = Sites(new_server)
    hosts = [server.host for server in sites.of.values()]
    return new_crawl(hosts=hosts, seeds=[sites.of["home"].url()]).start().wait(), sites


@pytest.mark.parametrize("name", ["signal", "broken", "rsl", "unread"])
def test_a_reserved_site_is_not_fetched(visited: Visited, name: str) -> None:
    crawl, sites = visited
    server = sites.of[name]
    assert crawl.reasons()["page", server.url()] == ["opt_out"]
    assert not {"/", "/a.png"} & set(server.hits)


def test_robots_txt_speaks_for_images_and_a_busy_one_closes_the_site(visited: Visited) -> None:
    crawl, sites = visited
    other, busy = sites.of["other"], sites.of["busy"]
    assert crawl.reasons()["page", other.url()] == [""]
    assert crawl.reasons()["image", other.url("/a.png")] == ["robots_disallowed"]
    assert "/a.png" not in other.hits
    assert crawl.reasons()["page", busy.url()] == ["robots_disallowed"]
    assert set(busy.hits) == {"/robots.txt"}


@pytest.mark.parametrize("name", ["usage", "tdmrep", "local"])
def test_a_reserved_path_is_not_fetched(visited: Visited, name: str) -> None:
    crawl, sites = visited
    server = sites.of[name]
    assert crawl.reasons()["page", server.url()] == [""]
    assert crawl.reasons()["image", server.url("/a.png")] == ["opt_out"]
    assert "/a.png" not in server.hits


@pytest.mark.parametrize(
    "path",
    [
        "/meta",
        "/tdm",
        "/header",
        "/signal",
        "/link",
        "/rsl-link",
        *MARKED,
    ],
)
def test_a_page_reserves_itself(visited: Visited, path: str) -> None:
    crawl, sites = visited
    assert crawl.reasons()["page", sites.of["home"].url(path)] == ["opt_out"]


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("/noimageai", "/noimageai-shown.png"),
        ("/noimageindex", "/noimageindex-shown.png"),
        ("/tagged-images", "/tagged.png"),
    ],
)
def test_a_page_reserves_its_images_alone(visited: Visited, path: str, image: str) -> None:
    crawl, sites = visited
    home = sites.of["home"]
    assert crawl.reasons()["page", home.url(path)] == [""]
    assert crawl.reasons()["image", home.url(image)] == ["opt_out"]
    assert image not in home.hits


RESERVED = ("noai", "noml", "noimageai", "noindex", "ours", "signal", "tdm", "usage", "rsl")


@pytest.mark.parametrize(
    ("name", "reason"),
    [*((name, "opt_out") for name in RESERVED), ("theirs", ""), ("open", "")],
)
def test_an_image_reserves_itself(visited: Visited, name: str, reason: str) -> None:
    crawl, sites = visited
    found = {record.url for record in crawl.records}
    url = sites.of["home"].url(f"/{name}.png")
    assert (url in found) is (not reason)
    if reason:
        assert crawl.reasons()["image", url] == [reason]


def test_evidence_is_kept(visited: Visited) -> None:
    crawl, sites = visited
    details = {entry.item: entry.detail for entry in crawl.audit}
    assert "Content-Signal: search=yes, ai-train=no" in details[sites.of["signal"].url()]
    assert "HTTP 503" in details[sites.of["broken"].url()]
    assert details[sites.of["home"].url("/tdm.png")] == "header tdm-reservation: 1"


def test_licences_in_data_speak_for_their_images(visited: Visited) -> None:
    crawl, sites = visited
    home = sites.of["home"]
    free = next(record for record in crawl.records if record.url == home.url("/free.png"))
    assert (free.licence, free.licence_evidence, free.caption) == ("CC0-1.0", CC0, "A cat")
    assert crawl.reasons()["image", home.url("/mine.png")] == ["licence_unknown"]
    assert crawl.reasons()["image", home.url("/none.png")] == ["licence_unknown"]
