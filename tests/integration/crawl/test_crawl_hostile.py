"""Servers that mean no good, and the ways a crawl ends."""

from __future__ import annotations

import gzip
import io
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crawl_rig import Crawl, WebServer
from PIL import Image

from lora_factory.demo.site import GALLERY, GallerySite

pytestmark = pytest.mark.integration

PROSE = (
    "Welcome to a small collection of emoji icons. Everything here was drawn in the same manner: "
    "black shapes on white paper, an outline of constant weight, rounded corners, and just enough "
    "detail to tell a doughnut from a wheel. The rooms of the gallery follow everyday subjects, "
    "animals first, on land and under water, then food, tools, vehicles, weather and objects."
)
LICENCE = '<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>'


def page(content: str = "", head: str = "") -> str:
    """A page on topic."""
    title = "Icons of animals, food and objects"
    return (
        f"<html><head><title>{title}</title>{head}</head><body><p>{PROSE}</p>{content}{LICENCE}"
        "</body></html>"
    )


def links(*urls: str) -> str:
    """Links that every scorer follows."""
    return "".join(f'<a href="{url}">more icons of animals and food</a>' for url in urls)


def picture(seed: int) -> bytes:
    """A PNG of its own."""
    out = io.BytesIO()
    noise = random.Random(seed).randbytes(32 * 32 * 3)
    Image.frombytes("RGB", (32, 32), noise).save(out, "PNG")
    return out.getvalue()


PNG = {"Content-Type": "image/png"}
TDMREP = "/.well-known/tdmrep.json"


@pytest.fixture(scope="module")
def visited(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> tuple[Crawl, WebServer, WebServer, WebServer, WebServer]:
    """One crawl over four servers: allowed, forbidden, robots.txt 503, robots.txt 404."""
    home, away, closed, open_ = (new_server() for _ in range(4))
    home.answers["/robots.txt"] = (
        200, {}, b"User-agent: *\nDisallow: /everybody\n\nUser-agent: LoRAFactoryBot\nDisallow: /us"
    )  # fmt: skip
    closed.answers["/robots.txt"] = (503, {}, b"busy")
    open_.html("/", page())
    away.html("/", page())
    home.html("/", page(links(
        "/out", "/loop0", "/again", "/binary", "/broken", "/bomb", "/tagged", "/for-others", "/us",
        "/everybody", "/nofollow", "/garbage", "/pictures", away.url(), closed.url(), open_.url(),
        f"http://localhost:{home.port}/", f"http://user:secret@{home.host}/login",
        "file:///etc/passwd", f"http://{home.host}:notaport/",
    )))  # fmt: skip
    home.answers["/out"] = (302, {"Location": away.url("/secret")}, b"")
    for n in range(10):
        home.answers[f"/loop{n}"] = (302, {"Location": f"/loop{n + 1}"}, b"")
    home.answers["/again"] = (301, {"Location": "/"}, b"")
    home.answers["/binary"] = (200, {"Content-Type": "application/octet-stream"}, bytes(64))
    home.answers["/broken"] = (500, {}, b"")
    bomb = gzip.compress(b"<p>icons</p>" * 4_000_000)
    home.answers["/bomb"] = (
        200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, bomb
    )  # fmt: skip
    home.html("/tagged", page(), X_Robots_Tag="lorafactorybot: noindex")
    home.html("/for-others", page(), X_Robots_Tag="otherbot: noindex, noai")
    home.html("/nofollow", page(links("/hidden"), '<meta name="robots" content="nofollow">'))
    home.answers["/garbage"] = (
        200, {"Content-Type": "text/html"}, random.Random(1).randbytes(20_000)
    )  # fmt: skip
    home.html("/pictures", page(
        "<img src=/good.png><img src='/good.png?'><img src=/moved.png><img src=/huge.png>"
        f"<img src=/text.png><img src={away.url('/x.png')}><img src=/noai.png><img src=/gone.png>"
        "<div class='side sponsored-links'><img src=/advert.png></div><img src=/dot.gif width=1>"
    ))  # fmt: skip
    home.answers["/good.png"] = (200, PNG, picture(1))
    home.answers["/moved.png"] = (302, {"Location": away.url("/y.png")}, b"")
    home.answers["/huge.png"] = (200, {**PNG, "Content-Length": str(30 * 1024**2)}, b"")
    home.answers["/text.png"] = (200, PNG, b"<svg onload=alert(1)>" * 20)
    home.answers["/noai.png"] = (200, {**PNG, "X-Robots-Tag": "noimageai"}, picture(2))
    hosts = [home.host, closed.host, open_.host]
    crawl = new_crawl(hosts=hosts, seeds=[home.url()]).start().wait()
    return crawl, home, away, closed, open_


Visited = tuple[Crawl, WebServer, WebServer, WebServer, WebServer]


def test_no_request_leaves_the_allowed_hosts(visited: Visited) -> None:
    crawl, home, away, _, _ = visited
    reasons = crawl.reasons()
    assert away.hits == []
    assert reasons["page", home.url("/out")] == ["host_not_allowed"]
    assert reasons["page", away.url()] == ["host_not_allowed"]
    assert reasons["page", f"http://localhost:{home.port}/"] == ["host_not_allowed"]
    assert reasons["image", home.url("/moved.png")] == ["host_not_allowed"]
    assert reasons["image", away.url("/x.png")] == ["host_not_allowed"]
    assert "/login" not in home.hits


def test_robots_txt_by_rfc_9309(visited: Visited) -> None:
    crawl, home, _, closed, open_ = visited
    reasons = crawl.reasons()
    assert set(closed.hits) == {"/robots.txt"}  # 503: nothing may be fetched
    assert reasons["page", closed.url()] == ["robots_disallowed"]
    assert open_.hits == ["/robots.txt", TDMREP, "/"]  # 404: everything may
    assert reasons["page", open_.url()] == [""]
    assert reasons["page", home.url("/us")] == ["robots_disallowed"]
    assert reasons["page", home.url("/everybody")] == ["not_found"]  # our own group counts alone
    assert "/us" not in home.hits


def test_opt_outs_of_header_and_markup(visited: Visited) -> None:
    crawl, home, _, _, _ = visited
    reasons = crawl.reasons()
    assert reasons["page", home.url("/tagged")] == ["opt_out"]
    assert reasons["page", home.url("/for-others")] == [""]
    assert reasons["page", home.url("/nofollow")] == [""]
    assert "/hidden" not in home.hits
    assert reasons["image", home.url("/noai.png")] == ["opt_out"]


def test_broken_and_oversized_answers(visited: Visited) -> None:
    crawl, home, _, _, _ = visited
    reasons = crawl.reasons()
    found = {
        path: reasons["page", home.url(path)]
        for path in ("/loop0", "/again", "/binary", "/broken", "/bomb")
    }
    assert found == {
        "/loop0": ["too_many_redirects"],
        "/again": ["duplicate_url"],
        "/binary": ["not_html"],
        "/broken": ["http_error"],
        "/bomb": ["too_large"],
    }
    assert home.hits.count("/broken") == 3  # two retries
    assert "/loop5" in home.hits  # five redirects
    assert "/loop6" not in home.hits
    assert reasons["page", home.url("/garbage")][0] in {"low_entropy", "word_length", "language"}


def test_images_that_are_none(visited: Visited) -> None:
    crawl, home, _, _, _ = visited
    reasons = crawl.reasons()
    found = {
        path: reasons["image", home.url(path)]
        for path in ("/huge.png", "/text.png", "/gone.png", "/advert.png", "/dot.gif", "/good.png")
    }
    assert found == {
        "/huge.png": ["too_large"],
        "/text.png": ["not_an_image"],
        "/gone.png": ["not_found"],
        "/advert.png": ["ads"],
        "/dot.gif": ["too_small"],
        "/good.png": [""],
    }
    assert not {"/advert.png", "/dot.gif"} & set(home.hits)
    assert [record.licence for record in crawl.records] == ["CC0-1.0"]


def test_unreachable_seed_is_named_with_its_cause(
    new_crawl: Callable[..., Crawl], free_port: int
) -> None:
    seed = f"http://127.0.0.1:{free_port}/"
    crawl = new_crawl(hosts=[f"127.0.0.1:{free_port}"], seeds=[seed]).start().wait()
    assert crawl.error["type"] == "DataError"
    assert f"no seed could be reached: {seed} (robots_disallowed" in crawl.error["message"]
    assert "DownloadConnectionRefusedError" in crawl.error["message"]
    assert not list((crawl.folder / "store").rglob("manifest.json"))


def test_no_image_is_an_error_with_the_drop_table(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> None:
    site = new_server()
    site.html("/", page("<img src=/none.png>").replace(LICENCE, ""))
    crawl = new_crawl(hosts=[site.host], seeds=[site.url()]).start().wait()
    assert crawl.error["type"] == "DataError"
    assert "images 0 of 1 kept (licence_unknown 1)" in crawl.error["message"]


def test_stopped_crawl_ends_in_time_and_goes_on_later(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> None:
    site = new_server()
    picture_bytes = (GALLERY / "icons" / "cat.png").read_bytes()
    waiting = True

    def slow() -> tuple[int, dict[str, str], bytes]:
        for _ in range(150):
            if waiting:
                time.sleep(0.1)
        return 200, {"Content-Type": "text/html"}, page().encode()

    site.html("/", page("<img src=/cat.png>" + links("/slow")))
    site.answers |= {"/cat.png": (200, PNG, picture_bytes), "/slow": slow}
    crawl = new_crawl(hosts=[site.host], seeds=[site.url()]).start()
    assert crawl.process is not None
    deadline = time.monotonic() + 60
    while "/slow" not in site.hits or "/cat.png" not in site.hits:
        assert time.monotonic() < deadline, crawl.log
        time.sleep(0.05)
    asked = time.monotonic()
    crawl.process.terminate()
    crawl.wait(10)
    took = time.monotonic() - asked
    assert crawl.error["type"] == "Interrupted"
    assert crawl.process.exitcode == 75
    assert took < 4.0
    waiting = False
    crawl.start().wait()
    assert len(crawl.records) == 1
    # What had arrived wasn't asked for again.
    assert [site.hits.count(path) for path in ("/", "/cat.png", "/slow")] == [1, 1, 2]


def test_source_folder_through_the_command_line(
    new_crawl: Callable[..., Crawl], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(3))
    (folder / "a.txt").write_text("a noisy square\n", encoding="utf-8")
    crawl = new_crawl(folders={"mine": folder}, source="folder", folder="mine").start().wait()
    (record,) = crawl.records
    assert (record.caption, record.licence, record.url) == (
        "a noisy square", "own", "folder:mine/a.png"
    )  # fmt: skip


def test_forbidden_hosts_are_refused_before_anything_is_loaded(
    new_crawl: Callable[..., Crawl],
) -> None:
    with GallerySite() as site:
        nothing = new_crawl(seeds=[site.url]).start().wait()
        other = new_crawl(hosts=["gallery.example"], seeds=[site.url]).start().wait()
        assert site.hits == []
    assert nothing.error["type"] == "ConfigurationError"
    assert "LORA_FACTORY_CRAWL_HOSTS" in nothing.error["message"]
    assert other.error["type"] == "DataError"
    assert site.url in other.error["message"]
