"""Sources on the network: runs the spider in this process, whose reactor it uses up.

:func:`crawl_web` does everything with one worker, on a frontier and a work area in the stage's
scratch folder. Of several workers each does :func:`work`, on ``open_redis`` and
:func:`open_area`; what they brought is put together by :func:`collect` and, once it is an
artifact, forgotten (:func:`forget`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import uuid4

from lora_factory.contracts.crawl import WorkerStats
from lora_factory.contracts.expansion import Expansion
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import OWN, CrawlRequest, CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.abandoned import WORK
from lora_factory.crawl.frontier import Frontier, limits_of
from lora_factory.crawl.frontier_sqlite import SqliteFrontier
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.images import MAX_BYTES, ImageChecker
from lora_factory.crawl.ledger import Ledger, dropped, read_chunk
from lora_factory.crawl.links import canonical_url
from lora_factory.crawl.optout import product_token
from lora_factory.crawl.pump import CHUNKS, Pump
from lora_factory.crawl.report import CrawlReport
from lora_factory.crawl.revalidate import SETTING as PREVIOUS
from lora_factory.crawl.revalidate import previous_setting
from lora_factory.crawl.sources.base import Source
from lora_factory.crawl.sources.openverse import OpenverseSource
from lora_factory.crawl.sources.pages import PageSource
from lora_factory.crawl.sources.sitemap import SitemapSource
from lora_factory.crawl.sources.wikimedia import WikimediaSource
from lora_factory.crawl.topics import TopicBatcher
from lora_factory.errors import DataError, SpecError
from lora_factory.models.loaders import limit_threads, topic_classifier
from lora_factory.models.profiles import load_profile
from lora_factory.store.artifacts import open_store
from lora_factory.store.workarea import WorkArea

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between looks at the stop flag
SEARCHES = 12  # of one crawl, but every topic; Openverse lets strangers ask a few times an hour
DECODERS = 2  # processes: a picture takes one of them longer than it takes the worker
STOP_GRACE = 2.0  # seconds for downloads under way; SIGKILL comes after 4


def crawl_web(spec: CrawlSpec, ctx: StageContext, expansion: Expansion) -> CrawlReport:
    """Crawl from the seeds, alone; goes on from what a killed attempt left in scratch.

    Raises:
        ConfigurationError: the deployment allows no host.
        SpecError: there is no seed.
        DataError: no seed answered, or no image was kept.
        Interrupted: asked to stop; what was fetched is kept in scratch.
    """
    limits = limits_of(spec, ctx.settings)
    path = ctx.scratch / "frontier.sqlite"
    area = WorkArea((ctx.scratch / "area").as_uri())
    work(spec, expansion, SqliteFrontier(path, limits), area, f"w{uuid4().hex[:12]}", ctx)
    return collect(spec, SqliteFrontier(path, limits), area, ctx)


def work(
    spec: CrawlRequest,
    expansion: Expansion,
    frontier: Frontier,
    area: WorkArea,
    worker: str,
    ctx: StageContext,
) -> WorkerStats:
    """Work on a crawl until it is finished. Uses up this process's reactor, and the frontier.

    Args:
        spec: what to crawl.
        expansion: terms that links are scored by, beside the topics.
        frontier: of the crawl; closed afterwards, since its connections are the reactor's.
        area: of the crawl.
        worker: a name no other process has or had.
        ctx: ``out`` isn't touched; ``previous`` is what is asked for conditionally.

    Raises:
        ConfigurationError, SpecError, DataError: as :func:`check_source`.
        ServiceUnavailable: the frontier or the store is away for too long.
        Interrupted: asked to stop; what was fetched is kept.
    """
    source, rules = check_source(spec, ctx.settings, expansion)
    limit_threads(ctx.settings)
    classifier = topic_classifier(load_profile(spec.profile, ctx.settings))
    ctx.check_stop()
    pump = Pump(frontier, area, worker)
    with closing(ImageChecker(DECODERS)) as checker:
        _run_spider(
            {
                "spec": spec,
                "expansion": expansion,
                "source": source,
                "rules": rules,
                "topics": TopicBatcher(classifier, spec.topics),
                "checker": checker,
                "area": area,
                "pump": pump,
                "token": product_token(ctx.settings.user_agent),
            },
            ctx,
        )
    ctx.check_stop()
    if pump.error is not None:
        raise pump.error
    return pump.stats


def collect(
    spec: CrawlRequest, frontier: Frontier, area: WorkArea, ctx: StageContext
) -> CrawlReport:
    """Once all workers are done: what they brought becomes ``ctx.out``. May be repeated.

    Closes the frontier.

    Raises:
        DataError: no seed answered, or no image was kept.
        ServiceUnavailable: the frontier or the store is away.
    """
    with closing(Ledger(ctx.scratch / "ledger.sqlite")) as ledger:
        for name in area.names(CHUNKS):
            ctx.check_stop()
            for entry in read_chunk(area.read(name)):
                ledger.add(entry)
        asyncio.run(_add_leftovers(frontier, ledger))
        if causes := ledger.unreached():
            raise _unreachable(causes)
        ledger.settle()
        report = ledger.report(spec.source)
        for count, name in enumerate(ledger.files()):
            if count % 100 == 0:
                ctx.check_stop()
            area.bring(name, ctx.out / name)
        ledger.write(ctx.out)
    return report


def forget(frontier: Frontier, area: WorkArea) -> None:
    """Remove what a crawl that became an artifact no longer needs, and close the frontier."""

    async def drop() -> None:
        await frontier.drop()
        await frontier.close()

    asyncio.run(drop())
    area.clear()


def open_area(settings: Settings, crawl: str) -> WorkArea:
    """Where the workers of a crawl put what they find: ``work/crawl/<id>`` of the store.

    Raises:
        ConfigurationError: ``LORA_FACTORY_STORE`` is missing or can't be used.
    """
    return WorkArea(f"{open_store(settings).url}/{WORK}/{crawl}")


async def _add_leftovers(frontier: Frontier, ledger: Ledger) -> None:
    try:
        async for left in frontier.leftovers():
            ledger.add(dropped(left.task.kind, left.task.url, left.reason, left.detail))
    finally:
        await frontier.close()


def check_source(
    spec: CrawlRequest, settings: Settings, expansion: Expansion | None = None
) -> tuple[Source, HostRules]:
    """The source a spec names, and where the crawler may go.

    Args:
        spec: what to crawl.
        settings: the deployment.
        expansion: what sources that search look for; None: the topics alone.

    Raises:
        SpecError: there is no seed, or the source makes no requests.
        DataError: the deployment allows none of the hosts it begins with.
    """
    rules = HostRules(settings.crawl_hosts, public=settings.crawl_public)
    searches = spec.topics if expansion is None else expansion.queries(SEARCHES)
    source = open_source(spec, settings, searches)
    begin = (*source.pages(), *source.listings())
    if not begin:
        msg = f"source={spec.source} needs at least one URL in seeds"
        raise SpecError(msg)
    if not any(rules.allows(canonical_url(url) or "") for url in begin):
        cause = "host_not_allowed, neither public nor in LORA_FACTORY_CRAWL_HOSTS"
        raise _unreachable(dict.fromkeys(begin, cause))
    return source, rules


def open_source(spec: CrawlRequest, settings: Settings, searches: Sequence[str]) -> Source:
    """The source a spec names; ``searches`` is what it looks for, if it searches.

    Raises:
        SpecError: it makes no requests.
    """
    if spec.source == "sitemap":
        return SitemapSource(spec.seeds)
    if spec.source == "openverse":
        token = settings.openverse_token.get_secret_value()
        return OpenverseSource(searches, spec.licences, settings.openverse_url, token)
    if spec.source == "wikimedia":
        return WikimediaSource(searches, settings.wikimedia_url)
    if spec.source in OWN:
        msg = f"source={spec.source} makes no requests"
        raise SpecError(msg)
    return PageSource(spec.seeds, follows_links=spec.source == "web")


def _unreachable(causes: dict[str, str]) -> DataError:
    listed = "; ".join(f"{seed} ({cause})" for seed, cause in causes.items())
    return DataError(f"no seed could be reached: {listed}")


def _run_spider(job: dict[str, Any], ctx: StageContext) -> None:
    """Run the crawl to its end, or until ``ctx.stop``."""
    from scrapy.crawler import AsyncCrawlerProcess

    from lora_factory.crawl.spider import CrawlJob, TopicSpider

    process = AsyncCrawlerProcess(scrapy_settings(ctx.settings, ctx))
    for noisy in ("scrapy", "twisted", "asyncio"):  # after Scrapy has set its own levels
        logging.getLogger(noisy).setLevel(logging.WARNING)
    crawler = process.create_crawler(TopicSpider)
    process.crawl(crawler, job=CrawlJob(**job))
    _watch(ctx.stop, process)
    process.start(install_signal_handlers=False)


def _watch(stop: threading.Event, process: Any) -> None:
    """Close the spider once ``stop`` is set; leave the reactor if that takes too long."""
    from scrapy.utils.defer import deferred_from_coro
    from twisted.internet import reactor

    loop: Any = reactor

    def look() -> None:
        if not stop.is_set():
            loop.callLater(POLL, look)
            return
        log.info("asked to stop: downloads under way have %.0f s", STOP_GRACE)
        deferred_from_coro(process.stop())
        loop.callLater(STOP_GRACE, leave)

    def leave() -> None:
        loop.crash()  # without waiting for the slowest server
        loop.threadpool.stop()

    loop.callLater(POLL, look)


def scrapy_settings(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Scrapy's settings: what it would do by default beyond the web, or without limit, is off."""
    room = "lora_factory.crawl"
    return {
        "LORA_FACTORY_HOSTS": list(settings.crawl_hosts),
        "LORA_FACTORY_PUBLIC": settings.crawl_public,
        "LORA_FACTORY_DELAY": settings.crawl_delay,
        "USER_AGENT": settings.user_agent,
        "DOWNLOADER_MIDDLEWARES": {
            f"{room}.middlewares.HostGuard": 10,
            f"{room}.middlewares.SiteRulesMiddleware": 100,
            f"{room}.backoff.BackOff": 560,  # sees answers before Scrapy's retries do
            f"{room}.revalidate.Revalidate": 595,  # a 304 has nothing to decompress
            # Of use to nobody here, and asked for every request.
            "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
            "scrapy.downloadermiddlewares.httpauth.HttpAuthMiddleware": None,
            "scrapy.downloadermiddlewares.stats.DownloaderStats": None,
        },
        PREVIOUS: previous_setting(ctx),
        "DOWNLOAD_HANDLERS": {
            **dict.fromkeys(("http", "https"), f"{room}.client.Client"),
            **dict.fromkeys(("data", "file", "ftp", "s3")),
        },
        "EXTENSIONS": {
            "scrapy.extensions.telnet.TelnetConsole": None,
            "scrapy.extensions.remote_control.RemoteControl": None,
        },
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "HTTPPROXY_ENABLED": False,  # a proxy would resolve names elsewhere
        "COOKIES_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "DOWNLOAD_TIMEOUT": settings.crawl_timeout,
        "DOWNLOAD_MAXSIZE": MAX_BYTES,
        "DOWNLOAD_WARNSIZE": 0,
        "RETRY_TIMES": 2,
        "RETRY_GIVE_UP_LOG_LEVEL": "INFO",
        "REDIRECT_MAX_TIMES": 5,
        "DNS_TIMEOUT": 20,
        "LOG_VERSIONS": [],
        "LOG_INSTALL_ROOT_HANDLER": False,  # the process's own handlers take Scrapy's lines
        "LOGSTATS_INTERVAL": 0,
        "STATS_DUMP": False,
        "CONCURRENT_ITEMS": 1,  # Scrapy makes that many tasks a response; we yield no items
    }
