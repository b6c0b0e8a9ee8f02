"""Whether topic expansion changes which pages of the gallery are found, and what it may not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crawl_rig import Crawl

from knowledge_graphs import GraphServer, serve_graphs, write_wordnet
from lora_factory.demo import site as gallery
from lora_factory.demo.site import GallerySite, Reply

pytestmark = pytest.mark.integration

PLANTED = "/planted/penguins.html"
"""Linked from nowhere but a page off topic, by a word that no topic has."""
KEPT = (
    "/",
    "/robots.txt",
    "/articles/bookkeeping.html",
    "/rooms/fruit.html",
    "/icons/",
    "/thumbs/",
)


@pytest.fixture(scope="module")
def site() -> Iterator[GallerySite]:
    """Three of the gallery's pages, and one more."""
    pages = {path: reply for path, reply in gallery.replies().items() if path.startswith(KEPT[2:])}
    pages |= {path: gallery.replies()[path] for path in KEPT[:2]}
    link = f'<p><a href="{PLANTED}">Penguins</a></p><footer>'.encode()
    books = pages["/articles/bookkeeping.html"]
    pages["/articles/bookkeeping.html"] = Reply(books.body.replace(b"<footer>", link))
    room = gallery.replies()["/rooms/birds-and-insects.html"]
    pages[PLANTED] = Reply(room.body.replace(b"</h1>", b" of the planted page</h1>"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "replies", lambda: pages)
        with GallerySite() as running:
            yield running


@pytest.fixture(scope="module")
def crawl(site: GallerySite, new_crawl: Callable[..., Crawl]) -> Callable[..., Crawl]:
    """Crawls it: ``crawl(environment, hosts, **spec)``."""

    def run(environment: dict[str, str], *hosts: str, **spec: Any) -> Crawl:
        made = new_crawl(hosts=[site.host, *hosts], seeds=[site.url], **spec)
        made.environment.update(environment)
        return made.start().wait()

    return run


@pytest.fixture(scope="module")
def unhelped(crawl: Callable[..., Crawl]) -> tuple[Crawl, GraphServer]:
    """A crawl whose graphs are all down or not there."""
    graphs = ["wordnet", "conceptnet_local", "wikidata", "conceptnet"]
    with serve_graphs("500") as server:
        urls = {
            "LORA_FACTORY_CONCEPTNET_URL": server.url,
            "LORA_FACTORY_WIKIDATA_URL": server.api,
        }
        return crawl(urls, server.host, expansion={"graphs": graphs, "seconds": 10}), server


def test_all_graphs_down_and_the_run_goes_on(unhelped: tuple[Crawl, GraphServer]) -> None:
    found, server = unhelped
    assert found.records
    assert server.hits
    statuses = {one["graph"]: one["status"] for one in found.manifest["stats"]["graphs"]}
    assert statuses == {
        "wordnet": "skipped",
        "conceptnet_local": "skipped",
        "wikidata": "error",
        "conceptnet": "error",
    }
    assert set(found.manifest["stats"]["terms"]) == set(found.spec["topics"])


def test_a_page_that_only_an_expanded_term_finds(
    unhelped: tuple[Crawl, GraphServer], site: GallerySite, crawl: Callable[..., Crawl],
    tmp_path: Path,
) -> None:  # fmt: skip
    page = site.url.rstrip("/") + PLANTED
    without, _ = unhelped
    assert without.reasons()["page", page] == ["irrelevant_link"]
    found = crawl({"LORA_FACTORY_WORDNET": str(write_wordnet(tmp_path / "wordnet"))})
    assert found.reasons()["page", page] == [""]
    assert found.manifest["stats"]["terms"]["penguin"] > 0.6
    # Expansion adds, and takes nothing away.
    assert {record.url for record in without.records} < {record.url for record in found.records}
