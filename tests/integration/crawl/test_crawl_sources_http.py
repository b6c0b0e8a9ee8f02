"""Sources that begin with listings, asked over HTTP."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from crawl_rig import Crawl, WebServer
from PIL import Image

pytestmark = pytest.mark.integration

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
PROSE = (
    "Welcome to a small collection of emoji icons. Everything here was drawn in the same manner: "
    "black shapes on white paper, an outline of constant weight, rounded corners, and just enough "
    "detail to tell a doughnut from a wheel. The rooms of the gallery follow everyday subjects, "
    "animals first, on land and under water, then food, tools, vehicles, weather and objects."
)


def picture(seed: int) -> tuple[int, dict[str, str], bytes]:
    out = io.BytesIO()
    noise = random.Random(seed).randbytes(32 * 32 * 3)
    Image.frombytes("RGB", (32, 32), noise).save(out, "PNG")
    return 200, PNG, out.getvalue()


def result(site: WebServer, name: str, **more: Any) -> dict[str, Any]:
    return {
        "title": f"A {name}",
        "url": site.url(f"/{name}.png"),
        "license": "by",
        "license_version": "4.0",
        "license_url": "https://creativecommons.org/licenses/by/4.0/",
        "foreign_landing_url": site.url(f"/page/{name}"),
        "tags": [{"name": "icon"}],
        **more,
    }


class Api:
    """Answers searches page by page, whatever else the query holds."""

    def __init__(self, site: WebServer, path: str, pages: list[dict[str, Any]]) -> None:
        self.asked: list[str] = []
        self._pages = iter(pages)
        site.answers[path] = (404, {}, b"")
        real = site.answers

        class Answers(dict[str, Any]):
            def get(inner, key: str, default: Any = None) -> Any:  # noqa: N805
                if key.startswith(path + "?"):
                    self.asked.append(key)
                    return 200, JSON, json.dumps(next(self._pages)).encode()
                return real.get(key, default)

            def __setitem__(inner, key: str, value: Any) -> None:  # noqa: N805
                real[key] = value

        site.answers = Answers()


def test_openverse_pictures_come_with_their_licences(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> None:
    site = new_server()
    # An API is asked though its robots.txt turns crawlers away; pictures are not.
    site.answers["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /v1\nDisallow: /shut")
    for number, name in enumerate(("cat", "dog", "shut")):
        site.answers[f"/{name}.png"] = picture(number)
    api = Api(site, "/v1/images/", [
        {"page_count": 2, "results": [result(site, "cat"), result(site, "nc", license="by-nc")]},
        {"page_count": 2, "results": [result(site, "dog", license="cc0"), result(site, "shut")]},
    ])  # fmt: skip
    crawl = new_crawl(hosts=[site.host], source="openverse", topics=["icons of animals"])
    crawl.environment["LORA_FACTORY_OPENVERSE_URL"] = site.url("/v1/images/")
    crawl.start().wait()
    assert {(record.alt, record.licence) for record in crawl.records} == {
        ("A cat", "CC-BY-4.0"), ("A dog", "CC0-1.0")
    }  # fmt: skip
    assert next(r for r in crawl.records if r.alt == "A cat").page_url == site.url("/page/cat")
    reasons = crawl.reasons()
    assert reasons["image", site.url("/nc.png")] == ["licence_not_allowed"]
    assert reasons["image", site.url("/shut.png")] == ["robots_disallowed"]
    assert len(api.asked) == 2
    assert crawl.manifest["stats"]["source"] == "openverse"


def test_a_limit_of_the_api_ends_the_listing_with_what_there_is(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> None:
    site = new_server()
    site.answers["/cat.png"] = picture(1)
    first = {"continue": {"gsroffset": 1, "continue": "-||"}, "query": {"pages": {"1": {
        "title": "File:Cat.png",
        "imageinfo": [{"url": site.url("/cat.png"), "mime": "image/png", "extmetadata": {
            "LicenseUrl": {"value": "https://creativecommons.org/publicdomain/zero/1.0/"}}}],
    }}}}  # fmt: skip
    api = Api(site, "/w/api.php", [first, {"error": {"info": "Waiting for a database server"}}])
    crawl = new_crawl(hosts=[site.host], source="wikimedia", topics=["icons of animals"])
    crawl.environment["LORA_FACTORY_WIKIMEDIA_URL"] = site.url("/w/api.php")
    crawl.start().wait()
    assert [(record.alt, record.licence) for record in crawl.records] == [("Cat", "CC0-1.0")]
    assert len(api.asked) == 2
    limits = [entry for entry in crawl.audit if entry.reason == "unparsable"]
    assert "Waiting for a database server" in limits[0].detail


def test_a_sitemap_names_the_pages_and_no_link_is_followed(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> None:
    site = new_server()
    licence = '<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>'
    site.html("/a", f"<html><title>Icons of animals</title><body><p>{PROSE}</p><img src=/a.png>"
                    f"<a href=/b>more icons of animals</a>{licence}</body></html>")  # fmt: skip
    site.answers["/a.png"] = picture(1)
    site.answers["/sitemap.xml"] = (200, {"Content-Type": "application/xml"}, (
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        f"<url><loc>{site.url('/a')}</loc></url></urlset>").encode())  # fmt: skip
    seeds = [site.url("/sitemap.xml")]
    crawl = new_crawl(hosts=[site.host], source="sitemap", seeds=seeds).start().wait()
    assert [record.url for record in crawl.records] == [site.url("/a.png")]
    assert "/b" not in site.hits
    broken = new_crawl(hosts=[site.host], source="sitemap", seeds=[site.url("/a")]).start().wait()
    assert "kept no image" in broken.error["message"]
