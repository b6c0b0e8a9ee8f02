"""A host that says 429 or 503 is left alone for as long as it asks, and asked more slowly after.

Scrapy retries such answers at once and knows no Retry-After; its AutoThrottle follows latency,
which says little of hosts that are asked twice at a time, and may undercut a Crawl-delay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

from lora_factory.crawl.frontier import Limits
from lora_factory.crawl.middlewares import POLITENESS, Refused

log = logging.getLogger(__name__)

BUSY = frozenset({429, 503})
MAX_WAIT = Limits.max_rest
"""Seconds; a host that asks for more is given up until then."""
FIRST_WAIT = 1.0  # where it doesn't say; doubled each time
MAX_TRIES = 4  # of one request
FIRST_DELAY, MAX_DELAY = 0.5, 30.0  # seconds between requests to a host that was busy


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds a ``Retry-After`` header asks for, ≥ 0; None for one that can't be read.

    Both forms of RFC 9110, 10.2.3: seconds, and an HTTP date.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


@dataclass
class _Host:
    """How a host that was busy is treated. Times are of the monotonic clock."""

    free_at: float = 0.0
    delay: float = 0.0
    times: int = 0  # busy in a row
    why: str = ""


class BackOff:
    """Downloader middleware: pauses hosts here, and tells the frontier for all other workers.

    The site's own rules (robots.txt) aren't paused: what can't be read closes the site.

    Args:
        tell: lets all workers know for how many seconds a host wants to be left alone.
    """

    def __init__(self, tell: Callable[[str, float], Awaitable[None]]) -> None:
        self._tell = tell
        self._hosts: dict[str, _Host] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""

        async def tell(host: str, seconds: float) -> None:
            await crawler.spider.job.pump.rest(host, seconds)

        return cls(tell)

    async def process_request(self, request: Any) -> None:
        """Wait until the host may be asked; raise :class:`Refused` where that is too long."""
        host = self._hosts.get(urlsplit(request.url).netloc)
        if host is None or request.meta.get("site_rules"):
            return
        while (wait := host.free_at - time.monotonic()) > 0:
            if wait > MAX_WAIT:
                raise Refused(reason="rate_limited", detail=f"{host.why}, {wait:.0f} s are left")
            await asyncio.sleep(wait)
        host.free_at = time.monotonic() + host.delay

    async def process_response(self, request: Any, response: Any) -> Any:
        """Return what is to be asked again later, or the response.

        Raises:
            Refused: the host asked for too long a pause, or stays busy.
        """
        if request.meta.get("site_rules"):
            return response
        name = urlsplit(request.url).netloc
        if response.status not in BUSY:
            if name in self._hosts:
                self._calm(self._hosts[name], response.status)
                self._owe(request, name)
            return response
        host = self._hosts.setdefault(name, _Host())
        header = response.headers.get("Retry-After", b"").decode("latin-1")
        asked = retry_after(header, datetime.now(UTC))
        host.times += 1
        wait = FIRST_WAIT * 2 ** min(host.times - 1, 10) if asked is None else asked
        host.delay = min(max(2 * host.delay, FIRST_DELAY), MAX_DELAY)
        host.free_at = max(host.free_at, time.monotonic() + wait)
        self._owe(request, name)
        await self._tell(name, wait)
        host.why = f"{name} answers HTTP {response.status}, Retry-After: {header[:60] or 'none'}"
        tries = request.meta.get("busy_tries", 0) + 1
        if wait > MAX_WAIT or tries >= MAX_TRIES:
            raise Refused(reason="rate_limited", detail=f"{host.why}; asked {tries} times")
        log.info("%s: waiting %.0f s", host.why, min(wait, MAX_WAIT))
        again = request.copy()
        again.meta["busy_tries"] = tries
        again.dont_filter = True
        return again

    def _calm(self, host: _Host, status: int) -> None:
        if status < 400:
            host.times = 0
            host.delay = host.delay / 2 if host.delay > FIRST_DELAY / 4 else 0.0

    def _owe(self, request: Any, name: str) -> None:
        """What the frontier is told of the host once the request is over."""
        owed = request.meta.setdefault(POLITENESS, {})
        delay, concurrency = owed.get(name, (0.0, 1))
        owed[name] = max(delay, self._hosts[name].delay), concurrency
