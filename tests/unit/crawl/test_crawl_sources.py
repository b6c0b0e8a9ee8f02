"""What the sources ask for, and what they make of the answers."""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import date
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.expansion import Expansion, Term, alone
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.crawl.licences import UNKNOWN
from lora_factory.crawl.sources.base import Source, Unreadable
from lora_factory.crawl.sources.openverse import OpenverseSource
from lora_factory.crawl.sources.pages import PageSource
from lora_factory.crawl.sources.sitemap import SitemapSource
from lora_factory.crawl.sources.wikimedia import WikimediaSource
from lora_factory.crawl.web import SEARCHES, check_source

OPENVERSE = OpenverseSource(["ink cats"], ["CC0-1.0", "CC-BY-SA-4.0", "MIT"], "https://o.test/v1/")
WIKIMEDIA = WikimediaSource(["ink cats"], "https://w.test/w/api.php")
SITEMAP = SitemapSource(["https://s.test/sitemap.xml"])


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def answer(data: Any) -> bytes:
    return json.dumps(data).encode()


def test_openverse_asks_for_the_licences_it_knows() -> None:
    (url,) = OPENVERSE.listings()
    assert url.startswith("https://o.test/v1/?")
    assert query(url) == {
        "q": ["ink cats"],
        "page": ["1"],
        "page_size": ["20"],
        "mature": ["false"],
        "license": ["by-sa,cc0"],
    }
    assert OPENVERSE.headers == {}
    signed = OpenverseSource(["x"], [], "https://o.test/", "t0ken")
    assert signed.headers == {"Authorization": "Bearer t0ken"}
    assert "license" not in query(signed.listings()[0])


def test_openverse_results() -> None:
    result = {
        "title": "A  cat",
        "url": "https://live.test/cat.jpg",
        "license": "by-sa",
        "license_version": "4.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "foreign_landing_url": "https://photos.test/cat",
        "tags": [{"name": "cat"}, {"name": "ink"}, "odd", {}],
    }
    body = answer({"page_count": 3, "results": [result, {"url": 7}, "odd", None]})
    found = OPENVERSE.read(body, OPENVERSE.listings()[0])
    (image,) = found.images
    assert (image.ref.url, image.ref.alt, image.ref.nearby) == (
        "https://live.test/cat.jpg", "A cat", "cat, ink,"
    )  # fmt: skip
    assert image.ref.licence.id == "CC-BY-SA-4.0"
    assert image.page_url == "https://photos.test/cat"
    (more,) = found.more
    assert query(more)["page"] == ["2"]
    last = OPENVERSE.read(body, more.replace("page=2", "page=3"))
    assert last.more == []


@pytest.mark.parametrize(
    ("code", "version", "expected"),
    [
        ("cc0", "1.0", "CC0-1.0"),
        ("pdm", "1.0", "PDM-1.0"),
        ("by", "2.0", "CC-BY-2.0"),
        ("by-nc-nd", "4.0", "CC-BY-NC-ND-4.0"),
        ("by", "", UNKNOWN),
        ("sampling+", "1.0", UNKNOWN),
        ("", "", UNKNOWN),
    ],
)
def test_openverse_licences(code: str, version: str, expected: str) -> None:
    result = {"url": "https://a.test/x.png", "license": code, "license_version": version}
    (image,) = OPENVERSE.read(answer({"results": [result]}), "https://o.test/?q=x").images
    assert image.ref.licence.id == expected


def commons(**meta: str) -> dict[str, Any]:
    values = {name: {"value": value} for name, value in meta.items()}
    info = {
        "thumburl": "https://u.test/t.jpg",
        "url": "https://u.test/o.jpg",
        "mime": "image/jpeg",
        "descriptionurl": "https://w.test/wiki/File:Cat.jpg",
        "extmetadata": values,
    }
    return {"title": "File:Ink_cat.jpg", "imageinfo": [info]}


def test_wikimedia_results_and_the_next_page() -> None:
    (url,) = WIKIMEDIA.listings()
    assert query(url)["gsrsearch"] == ["ink cats filetype:bitmap"]
    page = commons(
        LicenseUrl="https://creativecommons.org/licenses/by/4.0",
        ImageDescription="<style>p > b {}</style><p>A <b title='5 > 4'>cat</b> in&nbsp;ink</p>",
        Categories="Cats|Ink drawings",
    )
    svg = commons() | {"imageinfo": [{"url": "https://u.test/x.svg", "mime": "image/svg+xml"}]}
    body = answer({
        "continue": {"gsroffset": 50, "continue": "gsroffset||"},
        "query": {"pages": {"1": page, "2": svg, "3": {"title": "File:None.jpg"}, "4": None}},
    })
    found = WIKIMEDIA.read(body, url)
    (image,) = found.images
    assert image.ref.url == "https://u.test/t.jpg"
    assert (image.ref.alt, image.ref.caption) == ("Ink cat", "A cat in ink")
    assert image.ref.nearby == "Cats, Ink drawings"
    assert image.ref.licence.id == "CC-BY-4.0"
    assert image.page_url == "https://w.test/wiki/File:Cat.jpg"
    (more,) = found.more
    assert query(more)["gsroffset"] == ["50"]
    assert query(more)["gsrsearch"] == query(url)["gsrsearch"]
    assert WIKIMEDIA.read(answer({"query": {"pages": {}}}), more).more == []


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"LicenseShortName": "Public domain"}, "PDM-1.0"),
        ({"LicenseShortName": "GFDL", "LicenseUrl": "https://gnu.org/fdl"}, UNKNOWN),
        ({"LicenseShortName": "CC BY 4.0"}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_wikimedia_licences(meta: dict[str, str], expected: str) -> None:
    body = answer({"query": {"pages": {"1": commons(**meta)}}})
    (image,) = WIKIMEDIA.read(body, WIKIMEDIA.listings()[0]).images
    assert image.ref.licence.id == expected


def test_wikimedia_errors_are_told() -> None:
    body = answer({"error": {"code": "maxlag", "info": "Waiting for a database server"}})
    with pytest.raises(Unreadable, match="Waiting for a database server"):
        WIKIMEDIA.read(body, "https://w.test/")


URLSET = b"""<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
<url><loc> https://s.test/a </loc></url><url><loc>https://s.test/b</loc></url></urlset>"""
INDEX = b"""<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
<sitemap><loc>https://s.test/1.xml.gz</loc></sitemap></sitemapindex>"""


def test_sitemaps() -> None:
    pages = ["https://s.test/a", "https://s.test/b"]
    assert SITEMAP.read(URLSET, "u").pages == pages
    assert SITEMAP.read(gzip.compress(URLSET), "u").pages == pages
    assert SITEMAP.read(b"https://s.test/a\nhttps://s.test/b\n", "u").pages == pages
    index = SITEMAP.read(INDEX, "u")
    assert (index.pages, index.more) == ((), ["https://s.test/1.xml.gz"])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "neither XML nor a list"),
        (b"hello", "neither XML nor a list"),
        (b"<urlset>", "can't be read as XML"),
        (b"<html></html>", "its root is <html>"),
        (gzip.compress(URLSET, mtime=0)[:30], "can't be unpacked"),
        (gzip.compress(bytes(60 * 1024 * 1024), mtime=0), "unpacks to more than"),
    ],
)
def test_what_is_no_sitemap_says_so(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        SITEMAP.read(body, "https://s.test/x")


def test_an_entity_reads_no_file() -> None:
    body = b'<!DOCTYPE u [<!ENTITY x SYSTEM "file:///etc/passwd">]><urlset><url><loc>&x;</loc></url></urlset>'
    assert not any("root:" in page for page in SITEMAP.read(body, "u").pages)


def test_pages_begin_with_the_seeds() -> None:
    for follows in (True, False):
        source = PageSource(["https://a.test/"], follows_links=follows)
        assert (source.pages(), source.listings()) == (("https://a.test/",), ())
        assert source.follows_links is follows


@pytest.mark.parametrize("source", [OPENVERSE, WIKIMEDIA, SITEMAP])
@given(body=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["results", "query", "pages", "continue", "url", "imageinfo", "error"]),
        inner, max_size=4,
    ),
    max_leaves=12,
).map(answer))  # fmt: skip
def test_any_answer_is_read_or_refused(source: Source, body: bytes) -> None:
    with contextlib.suppress(Unreadable):
        source.read(body, "https://o.test/?q=x&page=1")


def test_sources_that_search_look_for_expanded_terms_too() -> None:
    topics = tuple(f"topic {n}" for n in range(3))
    further = [
        Term(text=f"t{n}", topic=topics[0], weight=0.5, query=f"woodcut t{n}", graph="wordnet")
        for n in range(40)
    ]
    expansion = Expansion(terms=(*alone(topics).terms, *further))
    for source in ("openverse", "wikimedia"):
        spec = CrawlSpec(topics=topics, source=source, as_of=date(2026, 11, 24))
        plain, _ = check_source(spec, Settings())
        assert len(plain.listings()) == 3
        wide, _ = check_source(spec, Settings(), expansion)
        assert len(wide.listings()) == SEARCHES
        assert wide.listings()[:3] == plain.listings()
        assert "woodcut" in wide.listings()[3]
