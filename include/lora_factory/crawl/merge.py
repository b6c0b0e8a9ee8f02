"""What several workers brought becomes one raw artifact, and then nobody needs the rest."""

from __future__ import annotations

import asyncio
import logging

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.frontier_redis import open_redis
from lora_factory.crawl.report import CrawlReport
from lora_factory.crawl.status import PATIENCE, retire
from lora_factory.crawl.web import collect, forget, open_area
from lora_factory.errors import DataError, FactoryError, ServiceUnavailable

log = logging.getLogger(__name__)


def merge(spec: CrawlRequest, crawl: str, ctx: StageContext) -> CrawlReport:
    """Fill ``ctx.out`` with what the workers of a crawl found. May be repeated.

    Raises:
        ServiceUnavailable: they are not done yet, or Redis or the store is away.
        DataError: what they brought is gone, no seed answered, or no image was kept.
    """
    asyncio.run(_check_finished(spec, crawl, ctx.settings))
    frontier = open_redis(ctx.settings, crawl, spec)
    return collect(spec, frontier, open_area(ctx.settings, crawl), ctx)


def clean_up(spec: CrawlRequest, crawl: str, settings: Settings) -> None:
    """Forget a crawl that is an artifact. What can't be reached now is left and said so."""
    try:
        retire(settings, crawl)
        forget(open_redis(settings, crawl, spec, patience=PATIENCE), open_area(settings, crawl))
    except FactoryError as err:
        log.warning("crawl %s is done, but what it shared is still there: %s", crawl, err)


async def _check_finished(spec: CrawlRequest, crawl: str, settings: Settings) -> None:
    frontier = open_redis(settings, crawl, spec)
    try:
        found = await frontier.status()
    except DataError as err:
        msg = f"what the workers of crawl {crawl} brought is gone; run it again with force"
        raise DataError(msg) from err
    finally:
        await frontier.close()
    if not found.finished:
        left = found.pages.in_flight + found.images.in_flight
        msg = (
            f"crawl {crawl} is not finished: {left} tasks are leased, {found.pages.queued} pages "
            "are queued; wait for its workers, or clear crawl_work"
        )
        raise ServiceUnavailable(msg)
