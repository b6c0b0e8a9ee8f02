"""Workers that are killed at any moment, and a Redis that goes away: nothing is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from uuid import uuid4

import pytest
from kill_rig import TOPIC, SharedWork, SlowSite

from lora_factory.contracts.crawl import FrontierStatus
from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.crawl import web
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.report import CrawlReport
from lora_factory.demo.processes import free_ports
from lora_factory.errors import ServiceUnavailable
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration


def spec(site: SlowSite, **budgets: int) -> CrawlSpec:
    return CrawlSpec(
        topics=(TOPIC,), seeds=(site.url(0),), as_of=date(2026, 11, 24), min_entropy=3.0,
        max_depth=10_000, **{"max_pages": 10_000, "max_images": 10_000, **budgets},
    )  # fmt: skip


@pytest.fixture
def site() -> Iterator[SlowSite]:
    site = SlowSite(pages=60, hosts=3, seconds=0.4, distinct=40)
    yield site
    site.close()


class Killer:
    """Has some workers on a crawl, and kills them one at a time while they hold leases."""

    def __init__(self, shared: SharedWork, site: SlowSite, workers: int, seed: int) -> None:
        self.shared, self.site = shared, site
        self.chance = random.Random(seed)
        self.running = [shared.start() for _ in range(workers)]

    async def play(self, kills: int) -> None:
        frontier = self.shared.frontier()
        if self.shared.redis:  # a file is opened by its one worker
            await frontier.open()
        # Not before there are many pages: the seed alone would be in every killed worker's hands.
        during, self.site.seconds = self.site.seconds, 0.05
        await self._until(frontier, lambda s: s.pages.queued + s.pages.in_flight > 20)
        self.site.seconds = during
        for _ in range(kills):
            at_work = list[int]()

            def somebody_works(status: FrontierStatus, found: list[int] = at_work) -> bool:
                assert not (status.reasons and status.finished), "ended early: a larger site"
                busy = {worker.worker for worker in status.workers if worker.leases}
                found[:] = [n for n, (_, name) in enumerate(self.running) if name in busy]
                return bool(found)

            await self._until(frontier, somebody_works)
            victim = self.chance.choice(at_work)
            await asyncio.sleep(self.chance.uniform(0, 2.0))
            process, _ = self.running[victim]
            process.kill()
            process.join()
            self.running[victim] = self.shared.start()
        self.site.seconds = 0.05  # the rest needn't take long
        await self._until(frontier, lambda _: not any(p.is_alive() for p, _ in self.running))
        await frontier.close()

    async def _until(self, frontier: Frontier, done: Callable[[FrontierStatus], bool]) -> None:
        deadline = time.monotonic() + 200
        while not done(status := await frontier.status()):
            for budget in (status.pages, status.images):
                assert budget.done + budget.in_flight <= budget.limit
            assert time.monotonic() < deadline, self.shared.log[-3000:]
            await asyncio.sleep(0.1)


def crawl_and_kill(
    shared: SharedWork, site: SlowSite, kills: int, workers: int, *, seed: int
) -> CrawlReport:
    """Work with some workers, kill one at a time, collect what they brought."""
    killer = Killer(shared, site, workers, seed)
    try:
        asyncio.run(killer.play(kills))
    finally:
        for process, _ in killer.running:
            process.kill()
    for process, _ in killer.running:
        process.join()
        assert process.exitcode == 0, shared.log[-3000:]
    area = web.open_area(shared.settings, shared.crawl)
    return web.collect(shared.spec, shared.frontier(), area, shared.context("all"))


def check(shared: SharedWork, site: SlowSite, report: CrawlReport) -> None:
    """Every page was had, every picture's bytes once, and each has one verdict."""
    out = shared.context("all").out
    audit = list(read_jsonl(out / "audit.jsonl", AuditRecord))
    assert len({(entry.what, entry.item) for entry in audit}) == len(audit)
    pages = {entry.item for entry in audit if entry.what == "page" and entry.verdict == "kept"}
    assert pages == site.pages
    records = list(read_jsonl(out / "records.jsonl", RawRecord))
    assert len({record.sha256 for record in records}) == len(records) == site.distinct
    area = web.open_area(shared.settings, shared.crawl)
    stored = list(area.names("images"))
    assert len(stored) == len(set(stored)) == site.distinct
    assert len(list((out / "images").iterdir())) == site.distinct
    assert report.counts.kept == site.distinct
    assert report.counts.dropped == {"exact_duplicate": site.count - site.distinct}


def share(folder: Path, site: SlowSite, valkey: ValkeyServer, **budgets: int) -> SharedWork:
    return SharedWork(folder, spec(site, **budgets), site.hosts, valkey.url, uuid4().hex)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path, valkey: ValkeyServer) -> None:
    site = SlowSite(pages=150, hosts=3, seconds=0.8, distinct=100)
    try:
        shared = share(tmp_path, site, valkey)
        report = crawl_and_kill(shared, site, kills=2, workers=2, seed=1)
        check(shared, site, report)
    finally:
        site.close()


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills_lose_nothing(tmp_path: Path, valkey: ValkeyServer, seed: int) -> None:
    site = SlowSite(pages=1200, hosts=3, seconds=3.0, distinct=100)
    try:
        shared = share(tmp_path, site, valkey)
        report = crawl_and_kill(shared, site, kills=20, workers=2, seed=seed)
        check(shared, site, report)
    finally:
        site.close()


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_twenty_kills_overdraw_no_budget(tmp_path: Path, valkey: ValkeyServer) -> None:
    site = SlowSite(pages=1200, hosts=3, seconds=3.0)
    try:
        shared = share(tmp_path, site, valkey, max_pages=1000, max_images=900)
        report = crawl_and_kill(shared, site, kills=20, workers=2, seed=3)
        assert report.counts.kept == 900
        assert report.pages_kept <= 1000
    finally:
        site.close()


def test_one_worker_goes_on_where_it_was_killed(tmp_path: Path, site: SlowSite) -> None:
    shared = SharedWork(tmp_path, spec(site), site.hosts)
    report = crawl_and_kill(shared, site, kills=1, workers=1, seed=2)
    check(shared, site, report)
    again = sum(count - 1 for url, count in site.hits.items() if "/page/" in url)
    assert again <= 16 + 64  # what was under way, and what was fetched but not written


def away(folder: Path, seconds: float, *, port: int = 0, hangs: bool = False) -> None:
    """Two workers whose Redis is killed (or hangs), and comes back after a while."""
    site = SlowSite(pages=80, hosts=3, seconds=0.5, distinct=50)
    server = ValkeyServer(folder / "own", port).start()
    shared = share(folder, site, server)
    running = [shared.start() for _ in range(2)]
    try:
        deadline = time.monotonic() + 100
        while sum(site.hits.values()) < 20:
            assert time.monotonic() < deadline, shared.log[-3000:]
            time.sleep(0.05)
        server.hang() if hangs else server.kill()
        time.sleep(seconds)
        before = sum(site.hits.values())
        server.go_on() if hangs else server.start()
        for process, _ in running:
            process.join(100)
            assert process.exitcode == 0, shared.log[-3000:]
        assert before < sum(site.hits.values())
        for _, name in running:  # once a worker, not once a try
            lines = [line for line in shared.log.splitlines() if f" {name} " in line]
            assert len([line for line in lines if "Redis is away" in line]) == 1
            assert len([line for line in lines if "Redis is back" in line]) == 1
        area = web.open_area(shared.settings, shared.crawl)
        check(shared, site, web.collect(spec(site), shared.frontier(), area, shared.context("all")))
    finally:
        for process, _ in running:
            process.kill()
        server.stop()
        site.close()


def test_workers_wait_for_redis_and_go_on(tmp_path: Path) -> None:
    away(tmp_path, 3)


@pytest.mark.chaos
@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hangs"])
def test_workers_wait_half_a_minute_for_redis(tmp_path: Path, hangs: bool) -> None:
    (port,) = free_ports(1, tmp_path / "port.json")  # the same one afterwards
    away(tmp_path, 30, port=port, hangs=hangs)


def test_a_redis_that_stays_away_ends_the_call(tmp_path: Path) -> None:
    frontier = RedisFrontier(f"unix://{tmp_path}/none", "c", Limits(1, 1), patience=0.5)

    async def run() -> None:
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="away for 0 s"):
            await frontier.open()
        assert time.monotonic() - started < 5
        await frontier.close()

    asyncio.run(run())
