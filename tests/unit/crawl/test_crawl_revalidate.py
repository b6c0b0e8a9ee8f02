from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy import Request
from scrapy.http import HtmlResponse, Response

from lora_factory.contracts.records import write_jsonl
from lora_factory.crawl.revalidate import EarlierCrawl, Revalidate
from lora_factory.crawl.visits import FILE, Visit, visit_of

PAGE, PICTURE = "http://h.example/a", "http://h.example/a.png"
HTML = b"<p>icons of animals</p>" * 100
BYTES = b"\x89PNG not really"
NAME = f"images/{hashlib.sha256(BYTES).hexdigest()}.png"


def page(**headers: str) -> HtmlResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HtmlResponse(PAGE, headers={"Content-Type": "text/html", **named}, body=HTML)


@pytest.fixture
def earlier(tmp_path: Path) -> EarlierCrawl:
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (folder / NAME).write_bytes(BYTES)
    visits = [
        visit_of(page(ETag='"1"', X_Robots_Tag="noimageai"), "page"),
        visit_of(
            Response(PICTURE, headers={"Last-Modified": "yesterday"}, body=BYTES), "image", NAME
        ),
    ]
    write_jsonl(folder / FILE, [visit for visit in visits if visit is not None])
    return EarlierCrawl(folder, tmp_path / "index.sqlite")


def middleware(earlier: EarlierCrawl | None) -> Revalidate:
    return Revalidate(earlier, SimpleNamespace(inc_value=lambda key: None))


def headers(request: Request) -> dict[str, str]:
    return {k.decode(): v[0].decode() for k, v in request.headers.items()}


def test_an_answer_without_validators_is_not_kept() -> None:
    assert visit_of(page(), "page") is None
    assert visit_of(page(ETag="a" * 5000), "page") is None
    assert visit_of(page(ETag="\x01"), "page") is None


def test_requests_carry_the_conditions(earlier: EarlierCrawl) -> None:
    guard = middleware(earlier)
    for url, expected in (
        (PAGE, {"If-None-Match": '"1"'}),
        (PICTURE, {"If-Modified-Since": "yesterday"}),
        ("http://h.example/new", {}),
    ):
        request = Request(url)
        guard.process_request(request)
        assert headers(request) == expected
    for meta in ({"site_rules": True}, {"official": True}, {"unconditional": True}):
        request = Request(PAGE, meta=meta)
        guard.process_request(request)
        assert headers(request) == {}
    request = Request(PAGE)
    middleware(None).process_request(request)
    assert headers(request) == {}


def test_unchanged_answers_are_the_earlier_ones(earlier: EarlierCrawl) -> None:
    guard = middleware(earlier)
    found = guard.process_response(Request(PAGE), Response(PAGE, status=304))
    assert isinstance(found, HtmlResponse)
    assert (found.status, found.body, found.flags) == (200, HTML, ["unchanged"])
    assert found.headers["X-Robots-Tag"] == b"noimageai"  # though the 304 doesn't say so
    assert found.headers["ETag"] == b'"1"'  # and the next crawl can ask again
    image = guard.process_response(Request(PICTURE), Response(PICTURE, status=304))
    assert image.body == BYTES
    again = visit_of(image, "image", NAME)
    assert again is not None
    assert again.last_modified == "yesterday"


def test_a_304_may_reserve_what_was_free(earlier: EarlierCrawl) -> None:
    now = Response(PICTURE, status=304, headers={"X-Robots-Tag": "noai"})
    found = middleware(earlier).process_response(Request(PICTURE), now)
    assert found.headers.getlist("X-Robots-Tag") == [b"noai"]


def test_changed_answers_pass(earlier: EarlierCrawl) -> None:
    new = page(ETag='"2"')
    assert middleware(earlier).process_response(Request(PAGE), new) is new


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_lost_bytes_are_asked_for_again(earlier: EarlierCrawl, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "raw" / NAME
    file.unlink() if damage == "gone" else file.write_bytes(b"other")
    guard, request = middleware(earlier), Request(PICTURE)
    guard.process_request(request)
    again = guard.process_response(request, Response(PICTURE, status=304))
    assert isinstance(again, Request)
    guard.process_request(again)
    assert headers(again) == {}


def test_file_names_do_not_leave_the_artifact(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BYTES)
    (tmp_path / "raw").mkdir()
    visit: dict[str, Any] = {"what": "image", "url": PICTURE, "etag": "1", "headers": []}
    visit |= {"sha256": hashlib.sha256(BYTES).hexdigest(), "file_name": "../../secret"}
    (tmp_path / "raw" / FILE).write_text(json.dumps(visit) + "\n", encoding="utf-8")
    earlier = EarlierCrawl(tmp_path / "raw", tmp_path / "index")
    found = earlier.visit(PICTURE)
    assert found is not None
    assert earlier.body(found) is None


def test_an_artifact_of_before_answers_nothing(tmp_path: Path) -> None:
    assert EarlierCrawl(tmp_path, tmp_path / "index").visit(PAGE) is None


def test_a_visit_is_a_contract() -> None:
    visit = visit_of(page(ETag="1"), "page")
    assert visit is not None
    assert Visit.model_validate(json.loads(visit.model_dump_json())) == visit
