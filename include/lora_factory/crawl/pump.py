"""What moves a worker: leases in, outcomes out.

A worker holds few leases at a time, so that late but better tasks come first. What it learns is
written in groups: one chunk of the ledger for many tasks, and only then are their leases settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_factory.contracts.crawl import WorkerStats
from lora_factory.contracts.progress import Progress
from lora_factory.crawl.frontier import Frontier
from lora_factory.crawl.ledger import Entry, dump_chunk
from lora_factory.crawl.tasks import KINDS, Kind, Lease, Scored, Settled, seen_key
from lora_factory.errors import FactoryError, ServiceUnavailable
from lora_factory.store.workarea import WorkArea

log = logging.getLogger(__name__)

WINDOW = 16  # requests of a kind that are under way
OPEN = 2 * WINDOW  # leases of a kind without an outcome: what comes in waits to be looked at
STEP = 4  # leases that are worth asking for while others are under way
BEHIND = 256  # outcomes that wait to be written, after which none are asked for
GROUP = 64  # outcomes of a chunk
GATHER = 1.0  # seconds that an outcome waits for others
POLL = 0.2  # seconds between two looks at a frontier that had nothing
BEAT = 5.0  # seconds between heartbeats
TELL = 2.0  # seconds between lines of progress
RECENT = 50_000  # links that are remembered as sent to the frontier
CHUNKS = "chunks"


@dataclass
class Outcome:
    """What came of a task."""

    counts: bool = False
    reason: str = ""
    entries: list[Entry] = field(default_factory=list)
    found: list[Scored] = field(default_factory=list)


class Recent:
    """The last ``size`` keys that were added: saves asking twice, and never grows."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: OrderedDict[str, None] = OrderedDict()

    def add(self, key: str) -> bool:
        """Remember a key; returns whether it is new."""
        new = key not in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._size:
            self._keys.popitem(last=False)
        return new


class Pump:
    """Leases tasks for one worker, and settles them.

    Args:
        frontier: of the crawl; closed by :meth:`close`.
        area: where chunks go.
        worker: a name no other process has or had.
    """

    def __init__(self, frontier: Frontier, area: WorkArea, worker: str) -> None:
        self.frontier, self.worker = frontier, worker
        self.error: FactoryError | None = None
        self._area = area
        self._under_way: Counter[Kind] = Counter()
        self._open: Counter[Kind] = Counter()
        self._held: dict[str, Lease] = {}
        self._freed: dict[str, bool] = {}
        self._waiting: list[tuple[Settled, Outcome]] = []
        self._oldest = 0.0
        self._chunks = 0
        self._sent = Recent(RECENT)
        self._moved = {kind: asyncio.Event() for kind in KINDS}  # something came back
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._committing = asyncio.Lock()
        self._settled: Counter[str] = Counter()
        self._marks: deque[tuple[float, int]] = deque(maxlen=int(60 / BEAT))
        self._closed = False
        self.progress: dict[Kind, Progress] = {}

    async def open(self, first: Sequence[Scored], entries: Sequence[Entry]) -> None:
        """Begin with the seeds, and with what there is to say of others."""
        try:
            await self.frontier.open()
            await self.frontier.add(first)
            await self._write(dump_chunk(entries))
        except FactoryError as err:
            self.fail(err)
            return
        self._tasks = [
            asyncio.get_running_loop().create_task(self._guarded(work))
            for work in (self._commits(), self._beats(), self._tells())
        ]

    async def leases(self, kind: Kind) -> AsyncIterator[Lease]:
        """Tasks of a kind to fetch now, until there are none left in the crawl."""
        while self.error is None and not self._closed:
            self._moved[kind].clear()
            try:
                got = await self._ask(kind)
                if not got and not self._held and await self.frontier.finished():
                    return
            except FactoryError as err:
                self.fail(err)
                return
            for lease in got:
                yield lease
            if not got:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._moved[kind].wait(), POLL)

    async def _ask(self, kind: Kind) -> list[Lease]:
        under_way = self._under_way[kind]
        room = min(WINDOW - under_way, OPEN - self._open[kind])
        if room < (STEP if under_way else 1) or len(self._waiting) >= BEHIND:
            return []
        freed, self._freed = self._freed, {}
        got = await self.frontier.lease(self.worker, kind, room, freed)
        self._held |= {lease.token: lease for lease in got}
        self._under_way[kind] += len(got)
        self._open[kind] += len(got)
        return got

    def _wake(self) -> None:
        for event in self._moved.values():
            event.set()

    def fetched(self, lease: Lease, *, asked: bool = True) -> None:
        """The request of a lease is over; ``asked``: its host got to see it."""
        self._under_way[lease.task.kind] -= 1
        self._freed[lease.token] = asked
        self._moved[lease.task.kind].set()

    def settle(self, lease: Lease, outcome: Outcome) -> None:
        """What came of a lease, after :meth:`fetched`."""
        outcome.found = [
            scored
            for scored in outcome.found
            if self._sent.add(seen_key(scored.task.kind, scored.task.url))
        ]
        if not self._waiting:
            self._oldest = time.monotonic()
        settled = Settled(token=lease.token, counts=outcome.counts, reason=outcome.reason)
        self._waiting.append((settled, outcome))
        self._open[lease.task.kind] -= 1
        self._settled[lease.task.kind] += 1
        self._moved[lease.task.kind].set()

    async def rest(self, host: str, seconds: float) -> None:
        """A host wants to be left alone: tell all workers."""
        try:
            await self.frontier.pause(host, seconds)
        except FactoryError as err:
            self.fail(err)

    def count_error(self) -> None:
        """Count a request that failed."""
        self._settled["error"] += 1

    def fail(self, error: FactoryError) -> None:
        """The frontier or the store is gone: this worker's part ends with ``error``."""
        self.error = self.error or error
        self._wake()

    async def close(self) -> None:
        """Write and settle what is there, give the rest back. Once; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        self._over.set()
        # Not cancelled: a client in the middle of a call may swallow that, and go on for ever.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        try:
            if self.error is None:
                await self._commit()
                await self._beat()
                await self._tell()
            if self._held:
                await self.frontier.nack(list(self._held), "worker_stopped")
        except FactoryError as err:
            # What can't be settled now is handed out again when its lease runs out.
            self.error = self.error or err
        finally:
            await self.frontier.close()

    @property
    def stats(self) -> WorkerStats:
        """What this worker has done."""
        pages = self._settled["page"]
        rate = 0.0
        if self._marks:
            since, before = self._marks[0]
            rate = (pages - before) / max(time.monotonic() - since, 1e-3)
        return WorkerStats(
            pages=pages, images=self._settled["image"], errors=self._settled["error"], rate=rate
        )

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FactoryError as err:
            self.fail(err)
        except Exception as err:
            # The one boundary: a worker without its pump would wait for ever.
            log.exception("the crawl's pump")
            self.fail(ServiceUnavailable(f"the crawl's pump broke: {err!r}; run the task again"))

    async def _commits(self) -> None:
        while await self._pause(POLL / 4):
            if not self._waiting:
                continue
            await self._announce()
            idle = not self._under_way.total()
            aged = time.monotonic() - self._oldest >= GATHER
            if idle or aged or len(self._waiting) >= GROUP:
                await self._commit()

    async def _announce(self) -> None:
        """Queue what was found, before its pages are settled: other workers may be idle.

        Should this worker die now, somebody finds it again, and it is queued once all the same.
        """
        outcomes = [outcome for _, outcome in self._waiting if outcome.found]
        found = [scored for outcome in outcomes for scored in outcome.found]
        if found:
            await self.frontier.add(found)
            for outcome in outcomes:
                outcome.found = []
            self._wake()

    async def _commit(self) -> None:
        async with self._committing:
            group, self._waiting = self._waiting, []
            if not group:
                return
            await self._write(dump_chunk(e for _, outcome in group for e in outcome.entries))
            found = [scored for _, outcome in group for scored in outcome.found]
            await self.frontier.ack([settled for settled, _ in group], found)
            for settled, _ in group:
                self._held.pop(settled.token, None)
                self._freed.pop(settled.token, None)
            self._wake()

    async def _write(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._chunks += 1
        name = f"{CHUNKS}/{self.worker}-{self._chunks:06d}.jsonl"
        await asyncio.to_thread(self._area.put, name, chunk)

    async def _beats(self) -> None:
        await self._beat()
        while await self._pause(BEAT):
            await self._beat()

    async def _beat(self) -> None:
        await self.frontier.heartbeat(self.worker, self.stats, list(self._held))
        self._marks.append((time.monotonic(), self._settled["page"]))

    async def _tells(self) -> None:
        await self._tell()
        while await self._pause(TELL):
            await self._tell()

    async def _pause(self, seconds: float) -> bool:
        """Wait; returns whether there is more to come."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return not self._closed

    async def _tell(self) -> None:
        for kind, counts in (await self.frontier.counts()).items():
            progress = self.progress.setdefault(
                kind, Progress(f"crawl: {kind}s", counts.limit, f"{kind}s", every=TELL)
            )
            waiting = counts.in_flight + counts.queued
            # One more than is known until nothing is: the end shows only when it is there.
            known = counts.done + 1 + waiting
            progress.total = min(counts.limit, known) + bool(waiting)
            progress.advance(counts.done - progress.done)
