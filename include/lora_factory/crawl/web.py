"""Sources on the network: runs the spider in this process, whose reactor it uses up.

What the stage and its parts call (the frontier and the work area are described in
``frontier.py`` and ``ledger.py``)::

    crawl_web(spec, ctx, expansion) -> CrawlReport
        One worker does everything, on a frontier and a work area in ``ctx.scratch``.
    work(spec, expansion, frontier, area, worker, ctx) -> WorkerStats
        One of several workers: queues the seeds, works until the frontier is finished.
        ``frontier = open_redis(settings, crawl_id, spec)`` and
        ``area = open_area(settings, crawl_id)``; ``worker`` is unique to the process.
    collect(spec, frontier, area, ctx) -> CrawlReport
        Once all workers are done: what nobody fetched, and what everybody brought, becomes
        ``ctx.out``. The caller then drops both: ``forget(frontier, area)``.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from typing import Any

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest, CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.images import MAX_BYTES, ImageStore
from lora_factory.crawl.ledger import Ledger
from lora_factory.crawl.links import canonical_url
from lora_factory.crawl.optout import product_token
from lora_factory.crawl.report import CrawlReport
from lora_factory.crawl.sources.base import Source
from lora_factory.crawl.sources.openverse import OpenverseSource
from lora_factory.crawl.sources.pages import PageSource
from lora_factory.crawl.sources.sitemap import SitemapSource
from lora_factory.crawl.sources.wikimedia import WikimediaSource
from lora_factory.crawl.topics import TopicBatcher
from lora_factory.errors import DataError, SpecError
from lora_factory.models.loaders import limit_threads, topic_classifier
from lora_factory.models.profiles import load_profile

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between looks at the stop flag
STOP_GRACE = 2.0  # seconds for downloads under way; SIGKILL comes after 4


def crawl_web(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Crawl from the seeds.

    Raises:
        ConfigurationError: the deployment allows no host.
        SpecError: there is no seed.
        DataError: no seed answered, or no image was kept.
        Interrupted: asked to stop; what was fetched is kept in scratch.
    """
    source, rules = check_source(spec, ctx.settings)
    limit_threads(ctx.settings)
    classifier = topic_classifier(load_profile(spec.profile, ctx.settings))
    ctx.check_stop()
    ledger = Ledger()
    with closing(ImageStore(ctx.out, spec.max_images)) as store:
        spider = _run_spider(
            {
                "spec": spec,
                "source": source,
                "rules": rules,
                "topics": TopicBatcher(classifier, spec.topics),
                "store": store,
                "ledger": ledger,
                "token": product_token(ctx.settings.user_agent),
            },
            ctx,
        )
    ctx.check_stop()
    for entry in spider.leftovers():
        ledger.add(entry)
    if not spider.reached:
        raise _unreachable(spider.seed_errors)
    ledger.bytes_kept = store.bytes_kept
    ledger.write(ctx.out)
    return ledger.report(spec.source)


def check_source(spec: CrawlRequest, settings: Settings) -> tuple[Source, HostRules]:
    """The source a spec names, and where the crawler may go.

    Raises:
        SpecError: there is no seed, or the source makes no requests.
        DataError: the deployment allows none of the hosts it begins with.
    """
    rules = HostRules(settings.crawl_hosts, public=settings.crawl_public)
    source = open_source(spec, settings)
    begin = (*source.pages(), *source.listings())
    if not begin:
        msg = f"source={spec.source} needs at least one URL in seeds"
        raise SpecError(msg)
    if not any(rules.allows(canonical_url(url) or "") for url in begin):
        cause = "host_not_allowed, neither public nor in LORA_FACTORY_CRAWL_HOSTS"
        raise _unreachable(dict.fromkeys(begin, cause))
    return source, rules


def open_source(spec: CrawlRequest, settings: Settings) -> Source:
    """The source a spec names.

    Raises:
        SpecError: it makes no requests.
    """
    if spec.source == "sitemap":
        return SitemapSource(spec.seeds)
    if spec.source == "openverse":
        token = settings.openverse_token.get_secret_value()
        return OpenverseSource(spec.topics, spec.licences, settings.openverse_url, token)
    if spec.source == "wikimedia":
        return WikimediaSource(spec.topics, settings.wikimedia_url)
    if spec.source == "folder":
        msg = "source=folder makes no requests"
        raise SpecError(msg)
    return PageSource(spec.seeds, follows_links=spec.source == "web")


def _unreachable(causes: dict[str, str]) -> DataError:
    listed = "; ".join(f"{seed} ({cause})" for seed, cause in causes.items())
    return DataError(f"no seed could be reached: {listed}")


def _run_spider(job: dict[str, Any], ctx: StageContext) -> Any:
    """Run the crawl to its end, or until ``ctx.stop``; returns the spider."""
    from scrapy.crawler import AsyncCrawlerProcess

    from lora_factory.crawl.spider import CrawlJob, TopicSpider

    process = AsyncCrawlerProcess(scrapy_settings(ctx.settings, ctx))
    for noisy in ("scrapy", "twisted", "asyncio"):  # after Scrapy has set its own levels
        logging.getLogger(noisy).setLevel(logging.WARNING)
    crawler = process.create_crawler(TopicSpider)
    process.crawl(crawler, job=CrawlJob(**job))
    _watch(ctx.stop, process)
    process.start(install_signal_handlers=False)
    return crawler.spider


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
        },
        "ITEM_PIPELINES": {f"{room}.pipelines.LedgerPipeline": 100},
        "TWISTED_DNS_RESOLVER": f"{room}.middlewares.GuardedResolver",
        "DOWNLOAD_HANDLERS": dict.fromkeys(("data", "file", "ftp", "s3")),
        "EXTENSIONS": {
            "scrapy.extensions.telnet.TelnetConsole": None,
            "scrapy.extensions.remote_control.RemoteControl": None,
        },
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "HTTPPROXY_ENABLED": False,  # a proxy would resolve names elsewhere
        "COOKIES_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_TIMEOUT": settings.crawl_timeout,
        "DOWNLOAD_MAXSIZE": MAX_BYTES,
        "DOWNLOAD_WARNSIZE": 0,
        "RETRY_TIMES": 2,
        "RETRY_GIVE_UP_LOG_LEVEL": "INFO",
        "REDIRECT_MAX_TIMES": 5,
        "DNS_TIMEOUT": 20,
        "HTTPCACHE_ENABLED": True,
        "HTTPCACHE_STORAGE": f"{room}.cache.ResponseCache",
        "HTTPCACHE_DIR": str(ctx.scratch / "responses"),
        "HTTPCACHE_IGNORE_HTTP_CODES": [408, 429, *range(500, 600)],
        "LOG_VERSIONS": [],
        "LOG_INSTALL_ROOT_HANDLER": False,  # the process's own handlers take Scrapy's lines
        "LOGSTATS_INTERVAL": 0,
        "STATS_DUMP": False,
    }
