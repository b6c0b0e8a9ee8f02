"""What a worker has in hand is bounded, whichever part of it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lora_factory.crawl import pump as module
from lora_factory.crawl.frontier import Limits
from lora_factory.crawl.frontier_sqlite import SqliteFrontier
from lora_factory.crawl.pump import OPEN, WINDOW, Outcome, Pump
from lora_factory.crawl.tasks import Lease, PageTask, Scored
from lora_factory.store.workarea import WorkArea

PAGES = 300


def pumped(folder: Path, work: Callable[[Pump], Awaitable[None]]) -> None:
    """Run something on a pump that has many pages to hand out."""

    async def run() -> None:
        frontier = SqliteFrontier(folder / "frontier.sqlite", Limits(1000, 1000, 0.0))
        await frontier.open()
        await frontier.set_host("a", delay=0, concurrency=PAGES)
        pump = Pump(frontier, WorkArea((folder / "area").as_uri()), "w")
        first = [Scored(task=PageTask(url=f"http://a/{n}")) for n in range(PAGES)]
        await pump.open(first, [])
        try:
            await asyncio.wait_for(work(pump), 20)
        finally:
            await pump.close()

    asyncio.run(run())


def test_what_is_fetched_and_not_judged_is_bounded(tmp_path: Path) -> None:
    """Requests are quick and judging never ends: the worker stops asking for more."""

    async def work(pump: Pump) -> None:
        got: list[Lease] = []

        async def fetch() -> None:
            async for lease in pump.leases("page"):
                got.append(lease)
                pump.fetched(lease)

        fetching = asyncio.create_task(fetch())
        await asyncio.sleep(1.0)
        assert len(got) == OPEN
        for lease in got[:10]:  # ten are judged, so ten more may come
            pump.settle(lease, Outcome(counts=True))
        await asyncio.sleep(0.5)
        assert len(got) == OPEN + 10
        fetching.cancel()

    pumped(tmp_path, work)


def test_requests_under_way_are_bounded(tmp_path: Path) -> None:
    async def work(pump: Pump) -> None:
        got: list[Lease] = []

        async def fetch() -> None:
            async for lease in pump.leases("page"):
                got.append(lease)

        fetching = asyncio.create_task(fetch())
        await asyncio.sleep(0.5)
        assert len(got) == WINDOW
        fetching.cancel()

    pumped(tmp_path, work)


def test_outcomes_that_cannot_be_written_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hangs: what was judged waits, and no more is asked for."""
    monkeypatch.setattr(module, "BEHIND", 40)

    async def work(pump: Pump) -> None:
        waiting = asyncio.Event()

        async def write(chunk: bytes) -> None:
            del chunk
            await waiting.wait()

        monkeypatch.setattr(pump, "_write", write)
        seen = 0

        async def fetch() -> None:
            nonlocal seen
            async for lease in pump.leases("page"):
                seen += 1
                pump.fetched(lease)
                pump.settle(lease, Outcome(counts=True))

        fetching = asyncio.create_task(fetch())
        await asyncio.sleep(2.0)
        held = seen
        # One group is being written, the next has filled up to the bound.
        assert held <= module.GROUP + 40 + 2 * WINDOW
        await asyncio.sleep(0.5)
        assert seen == held
        waiting.set()
        while seen < PAGES:
            await asyncio.sleep(0.05)
        fetching.cancel()

    pumped(tmp_path, work)
