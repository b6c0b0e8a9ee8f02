"""An incremental crawl fetches what is new, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from crawl_rig import Crawl, WebServer
from hostile_site import LICENCE, PROSE, picture

from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl
from lora_factory.crawl.visits import Visit

pytestmark = pytest.mark.integration

MODIFIED = "Mon, 23 Nov 2026 10:00:00 GMT"


def show(site: WebServer, path: str, tag: str, *images: str, links: tuple[str, ...] = ()) -> None:
    body = "".join(f'<p><img src="{image}" alt="icon {image}"></p>' for image in images)
    body += "".join(f'<a href="{link}">more icons of animals</a>' for link in links)
    title = f"Icons of animals, food and objects, {path}"
    html = f"<html><title>{title}</title><body><p>{PROSE}</p>{body}{LICENCE}</body></html>"
    site.html(path, html, ETag=f'"{tag}"')


def put(site: WebServer, path: str, seed: int, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    site.answers[path] = (200, {"Content-Type": "image/png", **named}, picture(seed))


@pytest.fixture(scope="module")
def crawls(
    new_crawl: Callable[..., Crawl], new_server: Callable[[], WebServer]
) -> tuple[Crawl, Crawl, WebServer]:
    """A site crawled; then one image changed and one page with an image came; crawled again."""
    site = new_server()
    show(site, "/", "1", "/cat.png", "/dog.png", links=("/more",))
    show(site, "/more", "1", "/fox.png", "/same.png", "/bare.png", "/rat.png")
    put(site, "/cat.png", 1, ETag='"1"')
    put(site, "/dog.png", 2, Last_Modified=MODIFIED)
    put(site, "/fox.png", 3, ETag='"1"', Last_Modified=MODIFIED)
    put(site, "/same.png", 3, ETag='"1"')  # the fox's bytes
    put(site, "/bare.png", 4)  # has no validator
    put(site, "/rat.png", 6, ETag='"1"')
    first = new_crawl(hosts=[site.host], seeds=[site.url()]).start().wait()
    site.hits.clear()
    show(site, "/more", "2", "/fox.png", "/same.png", "/bare.png", "/rat.png", links=("/new",))
    show(site, "/new", "1", "/owl.png")
    put(site, "/cat.png", 11, ETag='"2"')
    put(site, "/owl.png", 5, ETag='"1"')
    put(site, "/rat.png", 6, ETag='"1"', X_Robots_Tag="noai")  # its 304 says so
    again = new_crawl(
        hosts=[site.host],
        seeds=[site.url()],
        as_of="2026-11-25",
        previous=first.report["manifest_uri"],
    )
    again.environment["LORA_FACTORY_STORE"] = (first.folder / "store").as_uri()
    return first, again.start().wait(), site


Crawls = tuple[Crawl, Crawl, WebServer]


def test_only_new_bodies_are_sent(crawls: Crawls) -> None:
    _, _, site = crawls
    fresh = [path for path in site.hits if path not in site.unchanged]
    rules = {"/robots.txt", "/.well-known/tdmrep.json"}
    assert sorted(set(fresh) - rules) == ["/bare.png", "/cat.png", "/more", "/new", "/owl.png"]
    assert sorted(site.unchanged) == ["/", "/dog.png", "/fox.png", "/rat.png", "/same.png"]
    assert len(site.hits) == len(set(site.hits))


def opened(crawl: Crawl) -> tuple[Path, dict[str, RawRecord]]:
    """Folder of its artifact, and its records by URL; the store holds another."""
    manifest = Path(urlsplit(crawl.report["manifest_uri"]).path)
    folder = manifest.parent / json.loads(manifest.read_text(encoding="utf-8"))["attempt"]
    return folder, {r.url: r for r in read_jsonl(folder / "records.jsonl", RawRecord)}


def test_what_had_not_changed_is_there_all_the_same(crawls: Crawls) -> None:
    first, again, site = crawls
    _, before = opened(first)
    folder, after = opened(again)
    assert len(after) == 5  # the fox has the bytes of another, and either may have come first
    earlier = {record.sha256 for record in before.values()}
    new = {url for url, record in after.items() if record.sha256 not in earlier}
    assert new == {site.url("/cat.png"), site.url("/owl.png")}
    for record in (before[site.url("/dog.png")], before[site.url("/cat.png")]):
        # Of a page that hasn't changed, words, topics and licence are the same too.
        bytes_apart = dict.fromkeys(("sha256", "file_name", "perceptual_hash"), "")
        same = after[record.url].model_copy(update=bytes_apart)
        assert same == record.model_copy(update=bytes_apart)
    for record in after.values():
        assert (folder / record.file_name).is_file()


def test_the_next_crawl_can_ask_again(crawls: Crawls) -> None:
    first, again, _ = crawls
    visits = {
        crawl.report["manifest_uri"]: {
            urlsplit(visit.url).path: (visit.etag, visit.last_modified)
            for visit in read_jsonl(opened(crawl)[0] / "validators.jsonl", Visit)
        }
        for crawl in (first, again)
    }
    before, after = visits.values()
    changed = {"/cat.png": ('"2"', ""), "/more": ('"2"', "")}
    new = {"/owl.png": ('"1"', ""), "/new": ('"1"', "")}
    assert before.pop("/rat.png") == ('"1"', "")
    assert after == before | changed | new
    assert "/bare.png" not in after


def test_what_was_free_may_be_reserved_by_now(crawls: Crawls) -> None:
    first, again, site = crawls
    url = site.url("/rat.png")
    assert url in opened(first)[1]
    assert url not in opened(again)[1]
    audit = read_jsonl(opened(again)[0] / "audit.jsonl", AuditRecord)
    (verdict,) = (entry for entry in audit if entry.item == url)
    assert (verdict.reason, verdict.detail) == ("opt_out", "noai")
