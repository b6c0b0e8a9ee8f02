from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.http import Response

from lora_factory.crawl.backoff import MAX_TRIES, BackOff, retry_after
from lora_factory.crawl.middlewares import POLITENESS, Refused

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


async def nobody(host: str, seconds: float) -> None:
    """No other worker is told."""


def answered(guard: BackOff, request: Request, response: Response) -> Any:
    return asyncio.run(guard.process_response(request, response))


def waited(guard: BackOff, request: Request) -> float:
    start = time.monotonic()
    asyncio.run(guard.process_request(request))
    return time.monotonic() - start


def test_the_host_rests_as_long_as_it_asks_and_no_other_does() -> None:
    guard = BackOff(nobody)
    again = answered(guard, Request(URL), busy(Retry_After="1"))
    assert isinstance(again, Request)
    assert waited(guard, Request("http://other.example/")) < 0.1
    assert 0.9 < waited(guard, again) < 1.5


def test_a_host_that_was_busy_is_asked_more_slowly_for_a_while() -> None:
    guard = BackOff(nobody)
    answered(guard, Request(URL), busy(Retry_After="0"))
    assert waited(guard, Request(URL)) < 0.1
    assert 0.4 < waited(guard, Request(URL)) < 0.8
    for _ in range(4):
        answered(guard, Request(URL), Response(URL))
    waited(guard, Request(URL))
    assert waited(guard, Request(URL)) < 0.1


def test_too_long_a_pause_closes_the_host() -> None:
    guard = BackOff(nobody)
    with pytest.raises(Refused, match="rate_limited"):
        answered(guard, Request(URL), busy(503, Retry_After="3600"))
    with pytest.raises(Refused, match=r"HTTP 503, Retry-After: 3600, 3[56]\d\d s are left"):
        asyncio.run(guard.process_request(Request(URL)))
    robots = Request("http://h.example/robots.txt", meta={"site_rules": True})
    assert waited(guard, robots) < 0.1


def test_a_request_is_not_repeated_for_ever() -> None:
    guard, request = BackOff(nobody), Request(URL)
    for _ in range(MAX_TRIES - 1):
        request = answered(guard, request, busy(Retry_After="0"))
    with pytest.raises(Refused, match=f"asked {MAX_TRIES} times"):
        answered(guard, request, busy(Retry_After="0"))


def test_all_workers_are_told_of_the_rest_and_of_the_slower_pace() -> None:
    told: list[tuple[str, float]] = []

    async def tell(host: str, seconds: float) -> None:
        told.append((host, seconds))

    guard = BackOff(tell)
    request = Request(URL, meta={POLITENESS: {"h.example": (0.2, 2)}})
    again = answered(guard, request, busy(Retry_After="7"))
    with pytest.raises(Refused):
        answered(guard, Request(URL), busy(503, Retry_After="3600"))
    assert told == [("h.example", 7.0), ("h.example", 3600.0)]
    assert again.meta[POLITENESS]["h.example"] == (0.5, 2)
    calm = Request(URL, meta={POLITENESS: {"h.example": (0.2, 2)}})
    answered(guard, calm, Response(URL))
    assert calm.meta[POLITENESS]["h.example"] == (0.5, 2)
