"""How the crawls that workers share are going: for the log, the status command and the page."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from lora_factory.contracts.crawl import CrawlState, CrawlStatus, FrontierStatus, SharedCrawl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest
from lora_factory.crawl.frontier import Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.errors import ConfigurationError, DataError, ServiceUnavailable

log = logging.getLogger(__name__)

INDEX = "lf:crawls"
"""Redis hash: crawl id → :class:`SharedCrawl`, so that nobody has to search all keys."""
STALLED = 180.0
"""Seconds without an answer, while leases are out, after which a crawl is stalled.

Tasks that time out are settled all the same (three tries of 20 s by default): they are no sign of
life.
"""
PATIENCE = 2.0
"""Seconds that somebody who looks waits for a Redis that is away."""
LOOK = 15.0
"""Seconds between two looks of a worker at the whole crawl."""


def announce(settings: Settings, crawl: str, spec: CrawlRequest, workers: int) -> SharedCrawl:
    """Enter a crawl into the list, unless it is there; returns what is announced.

    Raises:
        ConfigurationError: the deployment has no Redis.
        ServiceUnavailable: it does not answer.
    """
    entry = SharedCrawl(
        crawl=crawl,
        topics=spec.topics,
        source=spec.source,
        workers=workers,
        max_pages=spec.max_pages,
        max_images=spec.max_images,
        started=datetime.now(UTC),
    )
    _index(settings, "hsetnx", INDEX, crawl, json.dumps(entry.model_dump(mode="json")))
    return entry


def retire(settings: Settings, crawl: str) -> None:
    """Take a crawl off the list.

    Raises:
        ConfigurationError, ServiceUnavailable: as :func:`announce`.
    """
    _index(settings, "hdel", INDEX, crawl)


def shared_crawls(settings: Settings) -> list[SharedCrawl]:
    """The crawls on the list, the latest first.

    Raises:
        ConfigurationError, ServiceUnavailable: as :func:`announce`.
    """
    found = [_entry(text) for text in _index(settings, "hvals", INDEX)]
    known = (entry for entry in found if entry is not None)
    return sorted(known, key=lambda entry: entry.started, reverse=True)


async def read_status(settings: Settings, crawl: SharedCrawl) -> CrawlStatus:
    """How a crawl is going.

    Raises:
        DataError: its frontier is gone.
        ServiceUnavailable: Redis does not answer.
    """
    limits = Limits(crawl.max_pages, crawl.max_images, settings.crawl_delay)
    url = settings.crawl_redis.get_secret_value()
    frontier = RedisFrontier(url, crawl.crawl, limits, patience=PATIENCE)
    try:
        found = await frontier.status()
    finally:
        await frontier.close()
    elapsed = max(0.0, (datetime.now(UTC) - crawl.started).total_seconds())
    return CrawlStatus(
        **crawl.model_dump(),
        state=state(found),
        seconds_left=seconds_left(found, elapsed),
        frontier=found,
    )


async def read_all(settings: Settings) -> list[CrawlStatus]:
    """Every crawl on the list that has a frontier; one without leaves the list.

    Raises:
        ConfigurationError, ServiceUnavailable: as :func:`announce`.
    """
    found = []
    for crawl in await asyncio.to_thread(shared_crawls, settings):
        try:
            found.append(await read_status(settings, crawl))
        except DataError:
            await asyncio.to_thread(retire, settings, crawl.crawl)
    return found


def state(found: FrontierStatus) -> CrawlState:
    """What a frontier's figures mean."""
    if found.finished and not found.reasons:
        return "starting"
    if found.finished:
        return "finished"
    if all(worker.stalled for worker in found.workers):
        return "deserted"
    in_flight = found.pages.in_flight + found.images.in_flight
    return "stalled" if in_flight and found.idle > STALLED else "running"


def seconds_left(found: FrontierStatus, elapsed: float) -> float | None:
    """Time for the pages and images that are known of; what the pages link to is not.

    Args:
        found: the frontier now.
        elapsed: seconds since the crawl began, which give its mean rate.
    """
    if found.finished:
        return 0.0 if found.reasons else None
    left = sum(
        max(0, min(queue.queued + queue.in_flight, queue.limit - queue.done))
        for queue in (found.pages, found.images)
    )
    settled = sum(found.reasons.values())
    return left * elapsed / settled if settled else None


class Watch:
    """Tells a worker's log how the whole crawl goes, and warns when it doesn't.

    A thread beside the reactor, with a connection of its own: a look at the whole must not
    hold up the work.
    """

    def __init__(self, settings: Settings, crawl: SharedCrawl) -> None:
        self._settings, self._crawl = settings, crawl
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="crawl-watch")
        self._warned: set[str] = set()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=PATIENCE)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            try:
                self.tell(asyncio.run(read_status(self._settings, self._crawl)))
            except (DataError, ServiceUnavailable) as err:
                log.info("the crawl's status can't be read now: %s", err)

    def tell(self, found: CrawlStatus) -> None:
        """Log one status."""
        log.info("%s", line(found))
        silent = {
            f"worker {worker.worker} was not heard of for {worker.last_seen:.0f} s: dead"
            for worker in found.frontier.workers
            if worker.stalled
        }
        news = {text.split(" was ")[0]: text for text in silent}
        for name in news.keys() - self._warned:
            log.warning("%s; the %s", news[name], "tasks it held are handed out again")
        if found.state == "stalled" and "stalled" not in self._warned:
            log.warning("the crawl stalls: no server has answered for %.0f s", found.frontier.idle)
        self._warned = set(news) | ({"stalled"} if found.state == "stalled" else set())


def line(found: CrawlStatus) -> str:
    """A crawl in one line."""
    pages, images = found.frontier.pages, found.frontier.images
    alive = sum(not worker.stalled for worker in found.frontier.workers)
    left = "" if found.seconds_left is None else f", {found.seconds_left:.0f} s left"
    return (
        f"crawl {found.crawl} {found.state}: pages {pages.done}/{pages.limit} "
        f"({pages.queued} queued), images {images.done}/{images.limit} ({images.queued} queued), "
        f"{alive} of {found.workers} workers alive, {found.frontier.rate:.1f} pages/s{left}"
    )


def _entry(text: bytes) -> SharedCrawl | None:
    try:
        return SharedCrawl.model_validate_json(text)
    except ValidationError:
        return None  # of another version


def _index(settings: Settings, command: str, *arguments: str) -> Any:
    url = settings.crawl_redis.get_secret_value()
    if not url:
        msg = "crawls share a Redis, and there is none: set LORA_FACTORY_CRAWL_REDIS"
        raise ConfigurationError(msg)
    try:
        with Redis.from_url(url, socket_timeout=5, socket_connect_timeout=PATIENCE) as redis:
            return getattr(redis, command)(*arguments)
    except ValueError as err:
        msg = "LORA_FACTORY_CRAWL_REDIS is no redis:// URL; correct it"
        raise ConfigurationError(msg) from err
    except (RedisError, OSError) as err:
        msg = f"the crawl's Redis does not answer ({type(err).__name__}); start it and try again"
        raise ServiceUnavailable(msg) from err
