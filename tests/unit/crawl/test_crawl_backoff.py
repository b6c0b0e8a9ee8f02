from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.http import Response

from lora_factory.crawl.backoff import MAX_TRIES, BackOff, retry_after
from lora_factory.crawl.middlewares import Refused

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
URL = "http://h.example/a"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("99999999999999999999", 999999999.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Tue, 24 Nov 2026 12:01:00", 60.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("²", None),
    ],
)
def test_both_forms_of_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=60))
def test_no_header_raises(value: str) -> None:
    found = retry_after(value, NOW)
    assert found is None or found >= 0


def busy(status: int = 429, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(URL, status=status, headers=named)


def waited(guard: BackOff, request: Request) -> float:
    start = time.monotonic()
    asyncio.run(guard.process_request(request))
    return time.monotonic() - start


def test_the_host_rests_as_long_as_it_asks_and_no_other_does() -> None:
    guard = BackOff()
    again = guard.process_response(Request(URL), busy(Retry_After="1"))
    assert isinstance(again, Request)
    assert waited(guard, Request("http://other.example/")) < 0.1
    assert 0.9 < waited(guard, again) < 1.5


def test_a_host_that_was_busy_is_asked_more_slowly_for_a_while() -> None:
    guard = BackOff()
    guard.process_response(Request(URL), busy(Retry_After="0"))
    assert waited(guard, Request(URL)) < 0.1
    assert 0.4 < waited(guard, Request(URL)) < 0.8
    for _ in range(4):
        guard.process_response(Request(URL), Response(URL))
    waited(guard, Request(URL))
    assert waited(guard, Request(URL)) < 0.1


def test_too_long_a_pause_closes_the_host() -> None:
    guard = BackOff()
    with pytest.raises(Refused, match="rate_limited"):
        guard.process_response(Request(URL), busy(503, Retry_After="3600"))
    with pytest.raises(Refused, match=r"HTTP 503, Retry-After: 3600, 3[56]\d\d s are left"):
        asyncio.run(guard.process_request(Request(URL)))
    robots = Request("http://h.example/robots.txt", meta={"site_rules": True})
    assert waited(guard, robots) < 0.1


def test_a_request_is_not_repeated_for_ever() -> None:
    guard, request = BackOff(), Request(URL)
    for _ in range(MAX_TRIES - 1):
        request = guard.process_response(request, busy(Retry_After="0"))
    with pytest.raises(Refused, match=f"asked {MAX_TRIES} times"):
        guard.process_response(request, busy(Retry_After="0"))
