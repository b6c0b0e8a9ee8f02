from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy import Request
from scrapy.http import Response
from scrapy.settings import Settings

from lora_factory.contracts.settings import Settings as Deployment
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.middlewares import (
    HostGuard,
    Refused,
    SiteRulesMiddleware,
)
from lora_factory.crawl.spider import explain
from lora_factory.crawl.web import scrapy_settings

HOSTS = Settings({"LORA_FACTORY_HOSTS": ["gallery.example", "127.0.0.1:8800"]})


def test_guard_refuses_every_other_host() -> None:
    guard = HostGuard.from_crawler(SimpleNamespace(settings=HOSTS))
    guard.process_request(Request("http://gallery.example/robots.txt"))
    with pytest.raises(Refused) as refused:
        guard.process_request(Request("http://127.0.0.1:8801/"))
    assert refused.value.reason == "host_not_allowed"
    assert explain(refused.value) == (
        "host_not_allowed",
        "127.0.0.1:8801 is neither public nor listed",
    )


def test_guard_without_hosts_is_not_built() -> None:
    with pytest.raises(Exception, match="LORA_FACTORY_CRAWL_HOSTS"):
        HostGuard.from_crawler(SimpleNamespace(settings=Settings()))


class Engine:
    """Answers robots.txt, and has nothing else; counts how often robots.txt was asked for."""

    def __init__(self, answer: Response | Exception) -> None:
        self.answer, self.asked = answer, 0
        self.downloader = SimpleNamespace(per_slot_settings={})

    async def download_async(self, request: Request) -> Response:
        await asyncio.sleep(0)
        if request.url != "http://gallery.example/robots.txt":
            return Response(request.url, status=404)
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def closed(answer: Response | Exception, *paths: str) -> tuple[list[str], int]:
    """Which of the paths robots.txt closes to us, and how often it was fetched."""
    engine = Engine(answer)
    agent = "LoRAFactoryBot/0.1 (+https://example.org)"
    settings = Settings({"USER_AGENT": agent, "LORA_FACTORY_PUBLIC": True})
    middleware = SiteRulesMiddleware.from_crawler(SimpleNamespace(settings=settings, engine=engine))

    async def ask(path: str) -> str | None:
        try:
            await middleware.process_request(Request(f"http://gallery.example{path}"))
        except Refused as refused:
            return path if refused.reason == "robots_disallowed" else None
        return None

    async def ask_all() -> list[str | None]:
        return await asyncio.gather(*(ask(path) for path in paths))

    return [path for path in asyncio.run(ask_all()) if path], engine.asked


def slot_of(body: bytes, **settings: Any) -> dict[str, Any]:
    """The queue that a host with this robots.txt gets."""
    engine = Engine(robots(200, body))
    values = {"USER_AGENT": "LoRAFactoryBot/0.1", "LORA_FACTORY_PUBLIC": True, **settings}
    crawler = SimpleNamespace(settings=Settings(values), engine=engine)
    request = Request("http://gallery.example/a")
    asyncio.run(SiteRulesMiddleware.from_crawler(crawler).process_request(request))
    slots: dict[str, dict[str, Any]] = engine.downloader.per_slot_settings
    return slots[request.meta["download_slot"]]


def test_crawl_delay_is_honoured() -> None:
    body = b"User-agent: *\nCrawl-delay: 7\n"
    assert slot_of(body, LORA_FACTORY_DELAY=1) == {"delay": 7.0, "jitter": 0.0, "concurrency": 1}
    assert slot_of(body, LORA_FACTORY_HOSTS=["gallery.example"])["delay"] == 7.0


def test_other_hosts_get_the_deployments_delay_and_listed_ones_none() -> None:
    assert slot_of(b"", LORA_FACTORY_DELAY=1.5) == {"delay": 1.5, "jitter": 0.0, "concurrency": 2}
    listed = slot_of(b"", LORA_FACTORY_DELAY=1.5, LORA_FACTORY_HOSTS=["gallery.example"])
    assert listed == {"delay": 0.0, "jitter": 0.0}


def robots(status: int, body: bytes = b"") -> Response:
    return Response("http://gallery.example/robots.txt", status=status, body=body)


@pytest.mark.parametrize("status", [500, 503, 429, 301])
def test_an_unreachable_robots_txt_closes_the_site(status: int) -> None:
    assert closed(robots(status), "/", "/a") == (["/", "/a"], 1)


def test_a_failing_connection_closes_the_site() -> None:
    assert closed(TimeoutError(), "/")[0] == ["/"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_absent_robots_txt_opens_the_site(status: int) -> None:
    assert closed(robots(status, b"User-agent: *\nDisallow: /"), "/a")[0] == []


def test_our_group_counts_alone_and_the_longest_rule_wins() -> None:
    body = (
        b"\xef\xbb\xbfUser-agent: *\nDisallow: /all\n\n"
        b"User-agent: lorafactorybot\nDisallow: /a\nAllow: /a/open\n"
    )
    assert closed(robots(200, body), "/all", "/a/x", "/a/open/x")[0] == ["/all", "/a/x"]
    only_all = b"User-agent: *\nDisallow: /all\n"
    assert closed(robots(200, only_all), "/all", "/b")[0] == ["/all"]


def test_garbage_is_an_empty_robots_txt() -> None:
    assert closed(robots(200, bytes(range(256)) * 10), "/a")[0] == []


def test_scrapys_doors_are_shut(tmp_path: Path) -> None:
    deployment = Deployment(crawl_hosts=("gallery.example",))
    context = StageContext({}, tmp_path, tmp_path, deployment)
    settings = Settings(scrapy_settings(deployment, context))
    handlers = settings.getwithbase("DOWNLOAD_HANDLERS")
    assert {scheme: handler for scheme, handler in handlers.items() if handler} == dict.fromkeys(
        ("http", "https"), "lora_factory.crawl.client.Client"
    )
    for name in ("TELNETCONSOLE_ENABLED", "REMOTE_CONTROL_ENABLED", "HTTPPROXY_ENABLED"):
        assert not settings.getbool(name)
    assert settings.getint("REDIRECT_MAX_TIMES") == 5
    assert settings.getint("DOWNLOAD_MAXSIZE") == 25 * 1024 * 1024
