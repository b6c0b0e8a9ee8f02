"""Both frontiers under any order of calls: hypothesis looks for one that breaks a rule."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from frontiers import Clock, Rig, image, page, redis_rig, sqlite_rig
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lora_factory.contracts.crawl import WorkerStats
from lora_factory.crawl import frontier_redis, frontier_sqlite
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.tasks import KINDS, Kind, Lease, Settled, host_of, seen_key
from lora_factory.errors import ServiceUnavailable
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
HOSTS, WORKERS = ("a", "b"), ("w1", "w2")
SHORT = Limits(9, 9, 0.0, lease=10.0, max_tries=4, max_lost=5, retry_delay=1.0, max_rest=20.0)
LIMITS = [
    replace(SHORT, max_pages=4, max_images=2, default_delay=1.0, pages_per_host=3),
    replace(SHORT, max_images=3, pages_per_host=1),
    replace(SHORT, max_images=4, pages_per_host=2, max_tries=2, max_lost=3),
    replace(SHORT, max_pages=3, default_delay=1.0),
]
POLITE = st.tuples(st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([1, 3]))
Key = tuple[str, str]
"""Kind and URL of a task."""


@dataclass
class Held:
    """A lease somebody holds."""

    lease: Lease
    until: float
    at: float
    before: float
    """When the host was asked for it, and before that."""
    freed: bool = False

    @property
    def key(self) -> Key:
        return self.lease.task.kind, self.lease.task.url

    @property
    def host(self) -> str:
        return host_of(self.lease.task.url)


class Rules(RuleBasedStateMachine):
    """Plays workers, and keeps its own books."""

    make: Callable[[], Rig]
    limits: Limits
    frontier: Frontier

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rig = type(self).make()
        self.known: set[Key] = set()
        self.over: set[Key] = set()  # settled
        self.dead: set[Key] = set()
        self.tries: Counter[Key] = Counter()
        self.claims: dict[Key, str] = {}
        self.held: dict[str, Held] = {}
        self.void: list[str] = []
        """Tokens of leases that ran out or were given back."""
        self.done = {"page": 0, "image": 0}
        self.fetched = dict.fromkeys(HOSTS, 0)
        self.asked = dict.fromkeys(HOSTS, -math.inf)
        self.rests = dict.fromkeys(HOSTS, -math.inf)  # until

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.run(self.frontier.drop())
            self.run(self.frontier.close())
            self.loop.close()

    @property
    def now(self) -> float:
        return self.rig.clock.now

    def expire(self, *, all_of_them: bool = False) -> None:
        """Leases that have run out, as the frontier takes them back in its next call."""
        for token, held in list(self.held.items()):
            if all_of_them or held.until <= self.now:
                self._gone(token, self.limits.max_lost)

    def _gone(self, token: str, most: int) -> None:
        held = self.held.pop(token)
        self.void.append(token)
        if self.tries[held.key] >= most:
            self.dead.add(held.key)

    @initialize(
        limits=st.sampled_from(LIMITS),
        polite=st.dictionaries(st.sampled_from(HOSTS), POLITE),
        pages=st.integers(1, 9),
        images=st.integers(0, 6),
    )
    def seeds(
        self, limits: Limits, polite: dict[str, tuple[float, int]], pages: int, images: int
    ) -> None:
        self.limits = limits
        self.polite = dict.fromkeys(HOSTS, (limits.default_delay, 1))
        self.frontier = self.rig.view(limits)
        self.run(self.frontier.open())
        for host, owed in polite.items():
            self.set_host(host, owed)
        self.add("page", [(HOSTS[k % 2], k) for k in range(pages)], 0.5)
        self.add("image", [(HOSTS[k % 2], k) for k in range(images)], 0.5)

    @rule(
        kind=st.sampled_from(["page", "image"]),
        what=st.lists(st.tuples(st.sampled_from(HOSTS), st.integers(0, 8)), max_size=4),
        score=st.floats(-1, 1),
    )
    def add(self, kind: Kind, what: list[tuple[str, int]], score: float) -> None:
        make = page if kind == "page" else image
        urls = [f"http://{host}/{n}" for host, n in what]
        new = {(kind, url) for url in urls} - self.known - self.claims.keys()
        assert self.run(self.frontier.add([make(url, score) for url in urls])) == len(new)
        self.known |= new

    @rule(
        host=st.sampled_from(HOSTS),
        n=st.integers(0, 8),
        owner=st.sampled_from(["http://d/1", "http://d/2"]),
    )
    def claim(self, host: str, n: int, owner: str) -> None:
        url = f"http://{host}/{n}"
        whose = "" if ("page", url) in self.known else self.claims.setdefault(("page", url), owner)
        assert self.run(self.frontier.claim(seen_key("page", url), owner)) == whose

    @rule(
        worker=st.sampled_from(WORKERS),
        kind=st.sampled_from(["page", "image"]),
        limit=st.integers(1, 4),
        free=st.lists(st.booleans(), max_size=2),
        wait=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def lease(self, worker: str, kind: Kind, limit: int, free: list[bool], wait: float) -> None:
        self.rig.clock.now += wait
        tokens = [token for token, held in self.held.items() if not held.freed]
        freed = dict(zip(tokens, free, strict=False))
        for token, asked in freed.items():
            held = self.held[token]
            held.freed = True
            if not asked and self.asked[held.host] == held.at:  # nobody was asked since
                self.asked[held.host] = held.before
        self.expire()
        self.take(kind, self.run(self.frontier.lease(worker, kind, limit, freed)))

    def take(self, kind: Kind, leases: list[Lease]) -> None:
        """Check and note down what was handed out."""
        for lease in leases:
            host = host_of(lease.task.url)
            held = Held(lease, self.now + self.limits.lease, self.now, self.asked[host])
            assert held.key in self.known - self.over
            assert held.key not in self.dead, "given up, and handed out"
            assert held.key not in {other.key for other in self.held.values()}, "leased twice"
            self.tries[held.key] += 1
            assert lease.tries == self.tries[held.key]
            self._polite(host, lease.rest)
            self.held[lease.token] = held
            pages = sum(h.host == host and h.key[0] == "page" for h in self.held.values())
            most = self.limits.pages_per_host or math.inf
            assert kind == "image" or pages + self.fetched[host] <= most, "the host's budget"

    def _polite(self, host: str, rest: float) -> None:
        delay, concurrency = self.polite[host]
        busy = sum(held.host == host and not held.freed for held in self.held.values())
        assert busy < concurrency, "too many requests at once"
        assert self.now >= self.asked[host] + delay - 1e-3, "asked too soon"
        left = max(0.0, self.rests[host] - self.now)
        assert not 0 < left <= self.limits.max_rest, "asked while it rests"
        assert rest == pytest.approx(left, abs=1e-3)
        self.asked[host] = self.now

    @rule(which=st.integers(0, 5), counts=st.booleans())
    def ack(self, which: int, counts: bool) -> None:
        if which >= len(self.held):
            return
        token = list(self.held)[which]
        held = self.held.pop(token)
        settled = [Settled(token=token, counts=counts)]
        # One that ran out may be settled, since nobody took it back yet.
        assert self.run(self.frontier.ack(settled)) == 1
        assert self.run(self.frontier.ack(settled)) == 0, "settled twice"
        self.over.add(held.key)
        self.done[held.key[0]] += counts
        self.fetched[held.host] += counts and held.key[0] == "page"

    @rule(which=st.integers(0, 5))
    def nack(self, which: int) -> None:
        if which < len(self.held):
            token = list(self.held)[which]
            self._gone(token, self.limits.max_tries)
            self.run(self.frontier.nack([token], "storage"))

    @rule(which=st.integers(0, 3), what=st.sampled_from(["ack", "nack", "free", "prolong"]))
    def too_late(self, which: int, what: str) -> None:
        """Somebody who was thought dead comes back: nothing is theirs any more."""
        if which >= len(self.void):
            return
        token = self.void[-1 - which]
        if what == "ack":
            assert self.run(self.frontier.ack([Settled(token=token, counts=True)])) == 0
        elif what == "nack":
            self.run(self.frontier.nack([token], "storage"))
        elif what == "prolong":
            self.run(self.frontier.heartbeat("w1", WorkerStats(), [token]))
        else:
            self.expire()
            found = self.run(self.frontier.lease("w1", "page", 1, {token: True}))
            self.take("page", found)

    @rule(worker=st.sampled_from(WORKERS), which=st.integers(0, 5))
    def heartbeat(self, worker: str, which: int) -> None:
        self.run(self.frontier.reclaim())
        self.expire()
        named = list(self.held)[:which]
        self.run(self.frontier.heartbeat(worker, WorkerStats(), named))
        for token in named:
            self.held[token].until = self.now + self.limits.lease

    @rule(host=st.sampled_from(HOSTS), owed=POLITE)
    def set_host(self, host: str, owed: tuple[float, int]) -> None:
        delay, concurrency = self.polite[host] = owed
        self.run(self.frontier.set_host(host, delay=delay, concurrency=concurrency))

    @rule(host=st.sampled_from(HOSTS), seconds=st.sampled_from([3.0, 30.0]))
    def pause(self, host: str, seconds: float) -> None:
        self.run(self.frontier.pause(host, seconds))
        self.rests[host] = max(self.rests[host], self.now + seconds)

    @rule(delay=st.sampled_from([1.0, 5.0]))
    def one_of_two_was_seen(self, delay: float) -> None:
        """Two requests to a host; the later one counts, whatever became of the first."""
        for host in HOSTS:
            self.set_host(host, (delay, 3))
        self.silence()
        for wait, free in ((0.0, []), (delay, []), (0.0, [False, False])):
            self.lease("w1", "page", 2, free, wait)

    @rule()
    def silence(self) -> None:
        self.rig.clock.now += self.limits.lease + 1

    @rule()
    def begin(self) -> None:
        """A worker starts. Of a file it is the only one: what its predecessor held comes back."""
        self.run(self.frontier.open())
        if not isinstance(self.frontier, RedisFrontier):
            self.expire(all_of_them=True)

    @property
    def most(self) -> dict[Kind, int]:
        """Budgets."""
        return {"page": self.limits.max_pages, "image": self.limits.max_images}

    @invariant()
    def books(self) -> None:
        for kind, counts in self.run(self.frontier.counts()).items():
            assert counts.done + counts.in_flight <= self.most[kind]
            assert counts.done == self.done[kind]
            assert counts.in_flight == sum(held.key[0] == kind for held in self.held.values())

    def finish(self) -> None:
        """Whatever happened: all can be brought to an end, and every URL is accounted for."""
        for _ in range(200):
            self.rig.clock.now += 20
            for kind in KINDS:
                self.expire()
                self.take(kind, self.run(self.frontier.lease("w1", kind, 50)))
                while self.held:
                    self.ack(0, counts=True)
            if self.run(self.frontier.finished()):
                break
        assert self.run(self.frontier.finished())

        async def left() -> dict[Key, str]:
            found: dict[Key, str] = {}
            async for entry in self.frontier.leftovers():
                found[entry.task.kind, entry.task.url] = entry.reason
            return found

        rest = self.run(left())
        assert rest.keys() | self.over == self.known
        assert not rest.keys() & self.over
        assert {key for key, reason in rest.items() if reason == "dead_letter"} == self.dead
        for (kind, url), reason in rest.items():
            if reason == "host_budget":
                assert kind == "page"
                assert self.fetched[host_of(url)] == self.limits.pages_per_host
            elif reason == "over_budget":
                assert self.done["image"] == self.most["image"] or (
                    kind == "page" and self.done["page"] == self.most["page"]
                )
            else:
                assert reason == "dead_letter"


@pytest.fixture(params=["sqlite", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Rig]]:
    if request.param == "redis":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        yield lambda: redis_rig(valkey.url)
        return
    with tempfile.TemporaryDirectory() as folder:
        names = iter(range(10**9))
        yield lambda: sqlite_rig(Path(folder, f"{next(names)}.sqlite"))


def play(make: Callable[[], Rig], examples: int, **more: Any) -> None:
    """Run the machine on the frontiers that ``make`` makes."""
    machine = type("Machine", (Rules,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


@pytest.mark.parametrize("examples", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_any_order_of_calls(make: Callable[[], Rig], examples: int) -> None:
    play(make, examples)


# Ways to break the script, and the module: what stands there, and what instead of it.
SCRIPT_BROKEN = {
    "budget of pages": ("return pages < limits.max_pages and", "return"),
    "budget of images": ("then return images < limits.max_images end", "then return true end"),
    "budget of a host": ("return number('taken', host) < limits.pages_per_host", "return true"),
    "what a host may no longer have stays": (
        "if number('fetched', host) >= limits.pages_per_host then",
        "if false then",
    ),
    "delay": ("stamp(now + host_rules(host))", "stamp(now)"),
    "concurrency": ("local free = number('busy', host) < most", "local free = true"),
    "lost when its lease runs out": (
        "found + give_back(token, 'lease_expired', 0, limits.max_lost)",
        "found + 1; end_lease(read_lease(token), false)",
    ),
    "leases never run out": ("  reclaim()\n  wake(kind)", "  wake(kind)"),
    "never given up": ("if task.tries >= most then", "if false then"),
    "given up too soon": ("if task.tries >= most then", "if task.tries >= 3 then"),
    "handed out twice": ("call('ZREM', queue(kind, host), task.id)", ""),
    "settled twice": ("call('HDEL', key('lease'), lease.token)", ""),
    "old tokens hold": ("task.id .. '.' .. task.tries", "task.id .. '.1'"),
    "queued twice": ("if call('SADD', key('seen'), seen) == 1 then", "if true then"),
    "claimed twice": ("if first then return first end", ""),
    "what is queued can be claimed": (
        "if call('SADD', key('seen'), name) == 0 then", "if false then"
    ),
    "time given back though another was asked": (
        "if not asked and call('HGET', key('next'), host) == lease.after then",
        "if not asked then",
    ),
    "hosts stay busy": ("  call('HINCRBY', key('busy'), host, -1)", ""),
    "heartbeats prolong nothing": ("for i = 3, #arguments do", "for i = 3, 0 do"),
    "no rest": ("local left = math.max(0, number('paused', host) - now)", "local left = 0"),
    "delays don't change": ("call('HSET', key('delay'), host, delay)", ""),
}  # fmt: skip
MODULE_BROKEN = {
    "budget": ("if flight + done >= self._most[kind]:", "if False:"),
    "budget of a host": ('room="AND taken < ?2"', 'room="AND ?2 > 0"'),
    "what a host may no longer have stays": ("if fetched >= self._per_host:", "if False:"),
    "delay": ("AND asked + delay <= ?1 AND", "AND"),
    "concurrency": ("AND busy < concurrency", ""),
    "lost when its lease runs out": (
        'self._give_back(task, "lease_expired", 0.0)\n        return',
        'self._do("DELETE FROM tasks WHERE id = ?", task)\n        return',
    ),
    "lost when its worker is gone": ("WHERE state = 'leased'\"):", "WHERE state = 'none'\"):"),
    "never given up": ("dead = tries >= most", "dead = False"),
    "given up too soon": ("dead = tries >= most", "dead = tries >= 3"),
    "old tokens hold": ("WHERE id = ? AND tries = ? AND", "WHERE id = ? AND ? > 0 AND"),
    "claimed twice": ("return str(first)", "pass"),
    "hosts stay busy": ("SET busy = busy - 1", "SET busy = busy - 0"),
    "time given back though another was asked": (
        "SET asked = ? WHERE host = ? AND asked = ?", "SET asked = ? WHERE host = ? AND ? > 0"
    ),
    "heartbeats prolong nothing": ("now + self._limits.lease, task", "now, task"),
    "no rest": ("(paused <= ?1 OR paused > ?1 + ?3)", "(?1 + ?3 > 0)"),
}  # fmt: skip


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def is_found(make: Callable[[], Rig]) -> None:
    # The second: what is broken may also trip over itself. It must have been compiled, though.
    with pytest.raises((AssertionError, ServiceUnavailable), match=r"^(?!.*compiling)"):
        play(make, 300, phases=[Phase.generate], database=None, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("what", SCRIPT_BROKEN)
def test_a_broken_script_is_found(
    valkey: ValkeyServer, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "frontier.lua"
    broken.write_text(replaced(frontier_redis.SCRIPT.read_text(), *SCRIPT_BROKEN[what]))
    monkeypatch.setattr(frontier_redis, "SCRIPT", broken)
    is_found(lambda: redis_rig(valkey.url))


@pytest.mark.slow
@pytest.mark.parametrize("what", MODULE_BROKEN)
def test_a_broken_module_is_found(what: str, tmp_path: Path) -> None:
    text = replaced(Path(frontier_sqlite.__file__).read_text(), *MODULE_BROKEN[what])
    module: dict[str, Any] = {"__name__": "broken"}
    exec(compile(text, "broken", "exec"), module)
    names = iter(range(10**9))

    def make() -> Rig:
        clock = Clock()
        file = tmp_path / f"{next(names)}.sqlite"
        return Rig(clock, lambda limits: module["SqliteFrontier"](file, limits, clock))

    is_found(make)
