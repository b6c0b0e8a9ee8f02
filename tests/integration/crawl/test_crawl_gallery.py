"""The demo's gallery, crawled for real: every trap ends where it should."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from crawl_rig import Crawl

from lora_factory.demo.site import GallerySite, gallery

pytestmark = pytest.mark.integration

PAGE_TRAPS = {
    "private/studio.html": "robots_disallowed",
    "articles/bookkeeping.html": "off_topic",
    "articles/ledger.html": "irrelevant_link",
    "de/galerie.html": "language",
    "rooms/lost-and-found.html": "not_found",
    "offers.html": "ads",
    "soon.html": "low_entropy",
    "sketches.html": "opt_out",
}
IMAGE_TRAPS = {
    "torn/print.png": "corrupt",
    "spacer.png": "too_small",
    "lent/portrait.png": "opt_out",
    "icons/anchor.png": "licence_unknown",
    "icons/balloon.png": "licence_not_allowed",
}
NEVER_FETCHED = {
    "/private/studio.html",
    "/private/draft.png",
    "/articles/ledger.html",
    "/sketches/gear.png",
    "/de/fuchs.png",
    "/icons/anchor.png",
    "/icons/balloon.png",
}


@pytest.fixture(scope="module")
def crawled(new_crawl: Callable[..., Crawl]) -> tuple[Crawl, str, list[str]]:
    """The gallery's crawl, its URL, and what was asked of it."""
    with GallerySite() as site:
        crawl = new_crawl(hosts=[site.host], seeds=[site.url]).start().wait()
        return crawl, site.url, site.hits


def test_every_page_trap_ends_with_its_reason(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, url, _ = crawled
    reasons = crawl.reasons()
    assert {path: reasons["page", url + path] for path in PAGE_TRAPS} == {
        path: [reason] for path, reason in PAGE_TRAPS.items()
    }
    assert reasons["page", "https://github.com/microsoft/fluentui-emoji"] == ["host_not_allowed"]


def test_every_image_trap_ends_with_its_reason(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, url, _ = crawled
    reasons = crawl.reasons()
    assert {path: reasons["image", url + path] for path in IMAGE_TRAPS} == {
        path: [reason] for path, reason in IMAGE_TRAPS.items()
    }
    copies = [reasons["image", url + p] for p in ("copies/red-apple.png", "icons/red-apple.png")]
    assert sorted(copies) == [[""], ["exact_duplicate"]]  # whichever came first is kept


def test_what_may_not_be_fetched_was_not(crawled: tuple[Crawl, str, list[str]]) -> None:
    _, _, hits = crawled
    assert not NEVER_FETCHED & set(hits)
    assert not [path for path in hits if path.startswith("/thumbs/")]  # the larger one is offered
    assert hits[0] == "/robots.txt"
    assert len(hits) == len(set(hits))  # nothing twice, robots.txt neither


def test_the_collection_is_complete_with_its_words(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, url, _ = crawled
    wanted = {
        icon["caption"]: icon for icon in gallery()["icons"] if icon["category"] != "visitors"
    }
    found = {record.alt: record for record in crawl.records}
    assert set(found) == set(wanted)
    for caption, record in found.items():
        assert record.licence == "MIT"
        assert record.licence_evidence == "https://opensource.org/license/mit"
        assert (record.width, record.height) == (64, 64)
        assert max(record.topics.values()) >= 0.2
        if record.url.startswith(f"{url}icons/"):
            assert record.caption.lower() == caption
            assert record.nearby == wanted[caption]["note"]
            assert record.page_url.startswith(f"{url}rooms/")


def test_bytes_are_stored_once_by_content(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, _, _ = crawled
    stored = {path.name: path for path in (crawl.artifact / "images").iterdir()}
    assert len(stored) == len(crawl.records) == 150
    for record in crawl.records:
        data = (crawl.artifact / record.file_name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record.sha256
        assert record.file_name == f"images/{record.sha256}.png"


def test_report_and_audit_agree(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, _, _ = crawled
    stats, counts = crawl.manifest["stats"], crawl.manifest["counts"]
    audit = crawl.audit
    pages = [entry for entry in audit if entry.what == "page"]
    assert stats["pages_seen"] == len(pages)
    assert stats["pages_kept"] == sum(entry.verdict == "kept" for entry in pages) == 19
    assert sum(stats["pages_dropped"].values()) == stats["pages_seen"] - stats["pages_kept"]
    assert counts["seen"] == len(audit) - len(pages)
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["seen"]
    assert stats["licences"] == {"MIT": 150}
    assert "crawl: pages" in crawl.log
    assert "crawl: images" in crawl.log


def test_kept_and_dropped_pages_lie_well_apart(crawled: tuple[Crawl, str, list[str]]) -> None:
    crawl, url, _ = crawled
    scores = {
        entry.item: float(entry.detail.split()[2].rstrip(","))
        for entry in crawl.audit
        if entry.detail.startswith("topic score")
    }
    off_topic = scores.pop(f"{url}articles/bookkeeping.html")
    assert off_topic < 0.1
    assert min(scores.values()) > 0.25


def test_budgets_are_exact(new_crawl: Callable[..., Crawl]) -> None:
    with GallerySite() as site:
        crawl = new_crawl(hosts=[site.host], seeds=[site.url], max_pages=6, max_images=23)
        crawl.start().wait()
        pages = [path for path in site.hits if path.endswith((".html", "/"))]
        images = [path for path in site.hits if path.endswith(".png")]
    assert len(pages) <= 6
    assert crawl.manifest["counts"]["kept"] == 23
    # An image that fails may be replaced by another, so a few more than 23 may be fetched.
    failed = {"corrupt", "too_small", "exact_duplicate", "opt_out"}
    dropped = crawl.manifest["counts"]["dropped"]
    assert len(images) == 23 + sum(n for reason, n in dropped.items() if reason in failed)
    assert crawl.manifest["stats"]["pages_dropped"]["over_budget"] > 0


def test_page_budget_is_used_up_and_not_overdrawn(new_crawl: Callable[..., Crawl]) -> None:
    with GallerySite() as site:
        crawl = new_crawl(hosts=[site.host], seeds=[site.url], max_pages=7).start().wait()
        pages = [path for path in site.hits if path.endswith((".html", "/"))]
    assert len(pages) == 7
    reasons = {reason for found in crawl.reasons().values() for reason in found}
    assert "over_budget" in reasons
