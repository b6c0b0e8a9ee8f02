"""What crawls leave that nobody ends: their work areas go once Redis has let go of their queues.

A frontier's keys expire a week after the last heartbeat (``frontier.lua``). A crawl that has none
any more can't be gone on with, and is removed when the next one is planned; but not within that
week, since a Redis that came back empty says the same of all of them.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from lora_factory.contracts.settings import Settings
from lora_factory.crawl.frontier import Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.status import PATIENCE, retire
from lora_factory.errors import DataError, FactoryError
from lora_factory.store.artifacts import open_store
from lora_factory.store.workarea import WorkArea

log = logging.getLogger(__name__)

WORK = "work/crawl"
"""Folder of the artifact store with an area of each crawl that workers share."""
KEPT = timedelta(days=7)
"""Since the last object that came into an area; as long as ``frontier.lua`` keeps the queues."""


def sweep(settings: Settings, now: datetime | None = None) -> list[str]:
    """Remove the areas of abandoned crawls; returns their ids. What is away now is left.

    Args:
        settings: the deployment; one without a Redis shares no crawls.
        now: with a time zone; None: the clock's.
    """
    if not settings.crawl_redis.get_secret_value():
        return []
    removed = []
    try:
        url = open_store(settings).url
        for crawl in WorkArea(f"{url}/{WORK}").folders():
            area = WorkArea(f"{url}/{WORK}/{crawl}")
            latest = area.latest()
            old = latest is None or latest < (now or datetime.now(UTC)) - KEPT
            if old and asyncio.run(_is_gone(settings, crawl)):
                area.clear()
                retire(settings, crawl)
                log.info("crawl %s was left a week ago and is removed", crawl)
                removed.append(crawl)
    except FactoryError as err:
        log.warning("abandoned crawls can't be looked for now: %s", err)
    return removed


async def _is_gone(settings: Settings, crawl: str) -> bool:
    url = settings.crawl_redis.get_secret_value()
    frontier = RedisFrontier(url, crawl, Limits(1, 1), patience=PATIENCE)
    try:
        await frontier.status()
    except DataError:
        return True
    finally:
        await frontier.close()
    return False
