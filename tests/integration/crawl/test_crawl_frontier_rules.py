"""Both frontiers under any order of calls: hypothesis looks for one that breaks a rule."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from frontiers import Rig, image, page, redis_rig, sqlite_rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lora_factory.contracts.crawl import WorkerStats
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.tasks import Kind, Lease, Settled, host_of
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
HOSTS, WORKERS = ("a", "b", "c"), ("w1", "w2")
LIMITS = Limits(4, 2, 1.0, lease=10.0, pages_per_host=2, max_tries=4, max_lost=5, retry_delay=1.0)
BUDGETS = {"page": LIMITS.max_pages, "image": LIMITS.max_images}


@dataclass
class Held:
    """A lease somebody holds."""

    lease: Lease
    until: float
    freed: bool = False

    @property
    def host(self) -> str:
        return host_of(self.lease.task.url)


class Rules(RuleBasedStateMachine):
    """Plays workers, and keeps its own books."""

    make: Callable[[], Rig]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rig = type(self).make()
        self.frontier: Frontier = self.rig.view(LIMITS)
        self.run(self.frontier.open())
        self.known: set[tuple[str, str]] = set()
        self.over: set[tuple[str, str]] = set()  # settled
        self.held: dict[str, Held] = {}
        self.done = {"page": 0, "image": 0}
        self.fetched = dict.fromkeys(HOSTS, 0)
        self.polite = dict.fromkeys(HOSTS, (LIMITS.default_delay, 1))
        self.asked = dict.fromkeys(HOSTS, -math.inf)

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        self.finish()
        self.run(self.frontier.drop())
        self.run(self.frontier.close())
        self.loop.close()

    @property
    def now(self) -> float:
        return self.rig.clock.now

    def expire(self) -> None:
        self.held = {token: held for token, held in self.held.items() if held.until > self.now}

    @initialize(pages=st.integers(1, 9), images=st.integers(0, 6))
    def seeds(self, pages: int, images: int) -> None:
        self.add("page", [(HOSTS[k % 3], k) for k in range(pages)], 0.5)
        self.add("image", [(HOSTS[k % 3], k) for k in range(images)], 0.5)

    @rule(
        kind=st.sampled_from(["page", "image"]),
        what=st.lists(st.tuples(st.sampled_from(HOSTS), st.integers(0, 8)), max_size=4),
        score=st.floats(-1, 1),
    )
    def add(self, kind: Kind, what: list[tuple[str, int]], score: float) -> None:
        make = page if kind == "page" else image
        urls = [f"http://{host}/{n}" for host, n in what]
        new = {(kind, url) for url in urls} - self.known
        assert self.run(self.frontier.add([make(url, score) for url in urls])) == len(new)
        self.known |= new

    @rule(
        worker=st.sampled_from(WORKERS),
        kind=st.sampled_from(["page", "image"]),
        limit=st.integers(1, 4),
        free=st.integers(0, 2),
        wait=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def lease(self, worker: str, kind: Kind, limit: int, free: int, wait: float) -> None:
        self.rig.clock.now += wait
        freed = [token for token, held in self.held.items() if not held.freed][:free]
        for token in freed:
            self.held[token].freed = True
        self.expire()
        leases = self.run(self.frontier.lease(worker, kind, limit, dict.fromkeys(freed, True)))
        for lease in leases:
            task = lease.task
            assert (task.kind, task.url) in self.known - self.over
            assert task.url not in {
                held.lease.task.url for held in self.held.values() if held.lease.task.kind == kind
            }, "leased twice"
            self._polite(host_of(task.url))
            self.held[lease.token] = Held(lease, self.now + LIMITS.lease)

    def _polite(self, host: str) -> None:
        delay, concurrency = self.polite[host]
        busy = sum(held.host == host and not held.freed for held in self.held.values())
        assert busy < concurrency, "too many requests at once"
        assert self.now >= self.asked[host] + delay - 1e-3, "asked too soon"
        self.asked[host] = self.now

    @rule(which=st.integers(0, 5), counts=st.booleans())
    def ack(self, which: int, counts: bool) -> None:
        if which >= len(self.held):
            return
        token = list(self.held)[which]
        held = self.held.pop(token)
        settled = [Settled(token=token, counts=counts)]
        answer = self.run(self.frontier.ack(settled))
        # One that ran out may be settled as long as nobody took it back.
        assert answer == 1 or held.until <= self.now
        if answer:
            task = held.lease.task
            self.over.add((task.kind, task.url))
            self.done[task.kind] += counts
            self.fetched[held.host] += counts and task.kind == "page"

    @rule(which=st.integers(0, 5))
    def nack(self, which: int) -> None:
        if which < len(self.held):
            token = list(self.held)[which]
            del self.held[token]
            self.run(self.frontier.nack([token], "storage"))

    @rule(worker=st.sampled_from(WORKERS), which=st.integers(0, 5))
    def heartbeat(self, worker: str, which: int) -> None:
        self.run(self.frontier.reclaim())
        self.expire()
        named = list(self.held)[:which]
        self.run(self.frontier.heartbeat(worker, WorkerStats(), named))
        for token in named:
            self.held[token].until = self.now + LIMITS.lease

    @rule(
        host=st.sampled_from(HOSTS),
        delay=st.sampled_from([0.0, 1.0, 5.0]),
        concurrency=st.integers(1, 3),
    )
    def set_host(self, host: str, delay: float, concurrency: int) -> None:
        self.run(self.frontier.set_host(host, delay=delay, concurrency=concurrency))
        self.polite[host] = (delay, concurrency)

    @rule()
    def silence(self) -> None:
        self.rig.clock.now += LIMITS.lease + 1

    @invariant()
    def budgets(self) -> None:
        for kind, counts in self.run(self.frontier.counts()).items():
            assert counts.done + counts.in_flight <= BUDGETS[kind]
            assert counts.done == self.done[kind]
        assert max(self.fetched.values()) <= 2

    def finish(self) -> None:
        """Whatever happened: all can be brought to an end, and every URL is accounted for."""
        for _ in range(200):
            self.rig.clock.now += 20
            for kind in ("page", "image"):
                self.held.clear()
                for lease in self.run(self.frontier.lease("w1", kind, 50)):
                    self.held[lease.token] = Held(lease, self.now + 10)
                    self.ack(0, counts=True)
            if self.run(self.frontier.finished()):
                break
        assert self.run(self.frontier.finished())

        async def left() -> set[tuple[str, str]]:
            found = [entry.task async for entry in self.frontier.leftovers()]
            return {(task.kind, task.url) for task in found}

        rest = self.run(left())
        assert rest | self.over == self.known
        assert not rest & self.over


@pytest.fixture(params=["sqlite", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Rig]]:
    if request.param == "redis":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        yield lambda: redis_rig(valkey.url)
        return
    with tempfile.TemporaryDirectory() as folder:
        names = iter(range(10**9))
        yield lambda: sqlite_rig(Path(folder, f"{next(names)}.sqlite"))


@pytest.mark.parametrize("examples", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_any_order_of_calls(make: Callable[[], Rig], examples: int) -> None:
    machine = type("Machine", (Rules,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
