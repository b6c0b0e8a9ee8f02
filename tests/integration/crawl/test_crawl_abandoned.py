"""A crawl that nobody ends: what it left goes once its queues have expired, and not before."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import redis
from frontiers import page
from pydantic import SecretStr

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec, PlanSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl import abandoned
from lora_factory.crawl.abandoned import KEPT, sweep
from lora_factory.crawl.frontier import Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.plan import run as plan
from lora_factory.crawl.status import announce, shared_crawls
from lora_factory.crawl.web import open_area
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
SPEC = CrawlSpec(topics=("icons",), seeds=("http://127.0.0.1:9/",), as_of=date(2026, 11, 24))
LATER = datetime.now(UTC) + KEPT + timedelta(hours=1)


@pytest.fixture
def settings(tmp_path: Path, valkey: ValkeyServer) -> Settings:
    return Settings(
        store=(tmp_path / "store").as_uri(),
        scratch=tmp_path / "scratch",
        crawl_redis=SecretStr(valkey.url),
        crawl_hosts=("127.0.0.1:9",),
    )


def begin(settings: Settings, crawl: str) -> Path:
    """A crawl with a queue, an image and an entry in the list; returns its area."""

    async def queue() -> None:
        frontier = RedisFrontier(settings.crawl_redis.get_secret_value(), crawl, Limits(5, 5))
        await frontier.open()
        await frontier.add([page("http://127.0.0.1:9/")])
        await frontier.close()

    asyncio.run(queue())
    announce(settings, crawl, SPEC, 2)
    open_area(settings, crawl).put("images/a.png", b"bytes")
    return Path(settings.store.removeprefix("file://")) / "work" / "crawl" / crawl


def expire(settings: Settings, crawl: str) -> None:
    """What Redis does with the keys of a crawl after a week."""
    with redis.Redis.from_url(settings.crawl_redis.get_secret_value()) as server:
        for name in server.scan_iter(f"lf:crawl:{{{crawl}}}:*"):
            server.delete(name)


def listed(settings: Settings) -> set[str]:
    return {entry.crawl for entry in shared_crawls(settings)}


def test_only_what_expired_a_week_ago_is_removed(settings: Settings) -> None:
    alive, left = begin(settings, "alive-1"), begin(settings, "left-1")
    assert sweep(settings, LATER) == []  # both still have their queues
    expire(settings, "left-1")
    assert sweep(settings) == []  # an empty Redis is no proof by itself
    assert sweep(settings, LATER) == ["left-1"]
    assert alive.is_dir()
    assert not left.exists()
    assert {"alive-1"} == listed(settings) & {"alive-1", "left-1"}
    assert sweep(settings, LATER) == []


def test_the_next_plan_does_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = begin(settings, "left-2")
    expire(settings, "left-2")
    monkeypatch.setattr(abandoned, "KEPT", timedelta(0))
    (tmp_path / "out").mkdir()
    context = StageContext({}, tmp_path / "out", tmp_path, settings)
    plan(PlanSpec(**SPEC.model_dump(include=set(PlanSpec.model_fields))), context)
    assert not left.exists()


def test_a_redis_that_is_away_removes_nothing(
    settings: Settings, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    left = begin(settings, "left-3")
    away = settings.model_copy(update={"crawl_redis": SecretStr(f"redis://127.0.0.1:{free_port}")})
    with caplog.at_level(logging.WARNING):
        assert sweep(away, LATER) == []
    assert "can't be looked for now" in caplog.text
    assert left.is_dir()
