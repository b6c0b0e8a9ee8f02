"""The frontier of one worker: a file that outlives the process.

SQLite in WAL mode; each call is a transaction, so a kill at any moment loses nothing that was
settled. The worker that opens the file is its only one: what a predecessor held comes back at
once. Calls take microseconds and run on the event loop's thread.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_factory.contracts.crawl import (
    FrontierStatus,
    HostStatus,
    QueueStatus,
    WorkerStats,
    WorkerStatus,
)
from lora_factory.crawl.frontier import NONE, SILENT, Limits, nothing_left
from lora_factory.crawl.tasks import (
    Kind,
    Lease,
    Leftover,
    Scored,
    Settled,
    dump,
    host_of,
    load,
    seen_key,
)

# state: 'queued', 'delayed' (due later), 'leased' (due is when it runs out), 'dead', 'over' (of a
# host whose budget is used up)
SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, host TEXT NOT NULL, score REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued', tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, busy INTEGER NOT NULL DEFAULT 0,
    before REAL, asked REAL,  -- when the host was asked before, and for this
    reason TEXT NOT NULL DEFAULT '', body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS best ON tasks (kind, host, score DESC, id) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS timed ON tasks (state, due) WHERE state IN ('leased', 'delayed');
CREATE TABLE IF NOT EXISTS hosts (
    host TEXT PRIMARY KEY, delay REAL NOT NULL, concurrency INTEGER NOT NULL,
    asked REAL NOT NULL DEFAULT -1e18, paused REAL NOT NULL DEFAULT -1e18, -- until
    busy INTEGER NOT NULL DEFAULT 0,
    -- pages that use up its budget, and those of them that are done
    taken INTEGER NOT NULL DEFAULT 0, fetched INTEGER NOT NULL DEFAULT 0,
    page REAL, image REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (
    kind TEXT PRIMARY KEY, queued INTEGER NOT NULL DEFAULT 0,
    flight INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reasons (reason TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY, beat REAL NOT NULL, stats TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counts (kind) VALUES ('page'), ('image');
"""
# A host's best scores stand beside it: looking for the best task reads hosts, not tasks.
BEST = (
    "UPDATE hosts SET {kind} = (SELECT score FROM tasks WHERE kind = '{kind}' AND host = ?1"
    " AND state = 'queued' ORDER BY score DESC LIMIT 1) WHERE host = ?1"
)
COLUMNS = {"page": BEST.format(kind="page"), "image": BEST.format(kind="image")}
READY = (
    "SELECT host FROM hosts WHERE {kind} IS NOT NULL AND busy < concurrency"
    " AND asked + delay <= ?1 AND (paused <= ?1 OR paused > ?1 + ?3) {room}"
    " ORDER BY {kind} DESC, asked, host LIMIT 1"
)
READIES = {
    "page": READY.format(kind="page", room="AND taken < ?2"),
    "image": READY.format(kind="image", room="AND ?2 > 0"),
}
SHOWN = 100  # hosts in a status
LEFT = {"dead": "dead_letter", "over": "host_budget"}  # state → reason


class SqliteFrontier:
    """See :class:`~lora_factory.crawl.frontier.Frontier`.

    Args:
        path: the file; made if it isn't there.
        limits: budgets and times.
        clock: seconds since whenever, the same for all who open the file.
    """

    def __init__(self, path: Path, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits, self._clock = limits, clock
        self._most = {"page": limits.max_pages, "image": limits.max_images}
        self._per_host = limits.pages_per_host or sys.maxsize
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(SCHEMA)

    async def open(self) -> None:
        """See :class:`Frontier`."""
        with self._transaction():
            for (task,) in self._rows("SELECT id FROM tasks WHERE state = 'leased'"):
                self._give_back(task, "lease_expired", 0.0)
            self._db.execute("UPDATE hosts SET busy = 0")
            self._do("INSERT OR IGNORE INTO marks VALUES ('settled', ?)", self._clock())

    async def add(self, tasks: Sequence[Scored]) -> int:
        """See :class:`Frontier`."""
        added, hosts = 0, set()
        with self._transaction():
            for scored in tasks:
                task, host = scored.task, host_of(scored.task.url)
                key = bytes.fromhex(seen_key(task.kind, task.url))
                if not self._do("INSERT OR IGNORE INTO seen VALUES (?)", key):
                    continue
                self._do(
                    "INSERT INTO tasks (kind, host, score, body) VALUES (?, ?, ?, ?)",
                    task.kind, host, scored.score, dump(task),
                )  # fmt: skip
                self._count(task.kind, queued=1)
                hosts.add((task.kind, host))
                added += 1
            for kind, host in hosts:
                self._know(host)
                self._do(COLUMNS[kind], host)
                self._close_if_full(host)
        return added

    async def claim(self, key: str, owner: str) -> str:
        """See :class:`Frontier`."""
        with self._transaction():
            for (first,) in self._rows("SELECT owner FROM claims WHERE key = ?", key):
                return str(first)
            if not self._do("INSERT OR IGNORE INTO seen VALUES (?)", bytes.fromhex(key)):
                return ""
            self._do("INSERT INTO claims VALUES (?, ?)", key, owner)
        return owner

    async def lease(
        self,
        worker: str,  # noqa: ARG002 - there is only one
        kind: Kind,
        limit: int,
        freed: Mapping[str, bool] = NONE,
    ) -> list[Lease]:
        """See :class:`Frontier`."""
        found: list[Lease] = []
        with self._transaction():
            for token, asked in freed.items():
                self._free(self._held(token), asked=asked)
            self._reclaim()
            self._wake()
            while len(found) < limit and self._within_budget(kind):
                limits = self._per_host, self._limits.max_rest
                host = next(self._rows(READIES[kind], self._clock(), *limits), None)
                if host is None:
                    break
                found.append(self._hand_out(kind, host[0]))
        return found

    async def set_host(self, host: str, *, delay: float, concurrency: int) -> None:
        """See :class:`Frontier`."""
        with self._transaction():
            self._know(host)
            self._do(
                "UPDATE hosts SET delay = ?, concurrency = ? WHERE host = ?",
                delay, concurrency, host,
            )  # fmt: skip

    async def pause(self, host: str, seconds: float) -> None:
        """See :class:`Frontier`."""
        with self._transaction():
            self._know(host)
            self._do(
                "UPDATE hosts SET paused = max(paused, ?) WHERE host = ?",
                self._clock() + seconds, host,
            )  # fmt: skip

    async def ack(self, settled: Sequence[Settled], found: Sequence[Scored] = ()) -> int:
        """See :class:`Frontier`."""
        await self.add(found)
        held, answered = 0, False
        with self._transaction():
            for one in settled:
                task = self._held(one.token)
                if task is None:
                    continue
                self._free(task)
                query = "SELECT kind, host FROM tasks WHERE id = ?"
                kind, host = next(self._rows(query, task))
                self._count(kind, flight=-1, done=int(one.counts))
                self._settle_host(kind, host, counts=one.counts)
                self._do("DELETE FROM tasks WHERE id = ?", task)
                self._do(
                    "INSERT INTO reasons VALUES (?, 1) ON CONFLICT DO UPDATE SET n = n + 1",
                    one.reason or "kept",
                )
                held += 1
                answered |= one.reason not in SILENT
            if answered:
                self._do("INSERT OR REPLACE INTO marks VALUES ('settled', ?)", self._clock())
        return held

    async def nack(self, tokens: Sequence[str], reason: str) -> None:
        """See :class:`Frontier`."""
        with self._transaction():
            for token in tokens:
                task = self._held(token)
                if task is not None:
                    self._give_back(task, reason, self._limits.retry_delay)

    async def reclaim(self) -> int:
        """See :class:`Frontier`."""
        with self._transaction():
            return self._reclaim()

    async def heartbeat(self, worker: str, stats: WorkerStats, held: Sequence[str] = ()) -> None:
        """See :class:`Frontier`."""
        now = self._clock()
        with self._transaction():
            self._do(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)",
                worker, now, stats.model_dump_json(),
            )  # fmt: skip
            for token in held:
                task = self._held(token)
                if task is not None:
                    self._do(
                        "UPDATE tasks SET due = ? WHERE id = ?", now + self._limits.lease, task
                    )

    async def counts(self) -> dict[Kind, QueueStatus]:
        """See :class:`Frontier`."""
        return {
            kind: QueueStatus(queued=queued, in_flight=flight, done=done, limit=self._most[kind])
            for kind, queued, flight, done in self._rows("SELECT * FROM counts")
        }

    async def status(self) -> FrontierStatus:
        """See :class:`Frontier`."""
        now, counts = self._clock(), await self.counts()
        workers = tuple(self._worker(now, *row) for row in self._rows("SELECT * FROM workers"))
        (total,) = next(
            self._rows("SELECT count(DISTINCT host) FROM tasks WHERE state IN ('queued','delayed')")
        )
        (settled,) = next(self._rows("SELECT coalesce(max(at), ?) FROM marks", now))
        (dead,) = next(self._rows("SELECT count(*) FROM tasks WHERE state = 'dead'"))
        return FrontierStatus(
            pages=counts["page"],
            images=counts["image"],
            hosts=tuple(self._hosts(now)),
            hosts_total=total,
            workers=workers,
            reasons=dict(self._rows("SELECT reason, n FROM reasons ORDER BY reason")),
            dead=dead,
            rate=sum(worker.rate for worker in workers if not worker.stalled),
            idle=max(0.0, now - settled),
            finished=nothing_left(counts),
        )

    async def finished(self) -> bool:
        """See :class:`Frontier`."""
        return nothing_left(await self.counts())

    async def leftovers(self) -> AsyncIterator[Leftover]:
        """See :class:`Frontier`."""
        for state, tries, reason, body in self._rows(
            "SELECT state, tries, reason, body FROM tasks ORDER BY score DESC, id"
        ):
            yield Leftover(
                task=load(body),
                reason=LEFT.get(state, "over_budget"),
                detail=f"{reason}, {tries} tries" if state == "dead" else "not fetched",
            )

    async def drop(self) -> None:
        """See :class:`Frontier`."""
        tables = ("seen", "claims", "tasks", "hosts", "counts", "reasons", "workers", "marks")
        with self._transaction():
            for table in tables:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
            self._db.execute("INSERT INTO counts (kind) VALUES ('page'), ('image')")

    async def close(self) -> None:
        """See :class:`Frontier`."""
        self._db.close()

    # -- inside a transaction ----------------------------------------------------------

    def _hand_out(self, kind: Kind, host: str) -> Lease:
        now = self._clock()
        query = (
            "SELECT id, tries, body FROM tasks WHERE kind = ? AND host = ?"
            " AND state = 'queued' ORDER BY score DESC, id LIMIT 1"
        )
        task, tries, body = next(self._rows(query, kind, host))
        query = "SELECT asked, paused FROM hosts WHERE host = ?"
        before, paused = next(self._rows(query, host))
        self._do(
            "UPDATE tasks SET state = 'leased', tries = ?, due = ?, busy = 1, before = ?,"
            " asked = ? WHERE id = ?",
            tries + 1, now + self._limits.lease, before, now, task,
        )  # fmt: skip
        self._do(
            "UPDATE hosts SET busy = busy + 1, asked = ?, taken = taken + ? WHERE host = ?",
            now, int(kind == "page"), host,
        )  # fmt: skip
        self._do(COLUMNS[kind], host)
        self._count(kind, queued=-1, flight=1)
        return Lease(
            token=f"{task}.{tries + 1}",
            task=load(body),
            tries=tries + 1,
            rest=max(0.0, paused - now),
        )

    def _give_back(self, task: int, reason: str, wait: float) -> None:
        self._free(task)
        kind, host, tries = next(
            self._rows("SELECT kind, host, tries FROM tasks WHERE id = ?", task)
        )
        self._settle_host(kind, host, counts=False)
        most = self._limits.max_tries if wait else self._limits.max_lost
        dead = tries >= most
        self._count(kind, queued=0 if dead else 1, flight=-1)
        state = "dead" if dead else "delayed" if wait else "queued"
        due = self._clock() + wait * 2 ** (tries - 1)
        self._do(
            "UPDATE tasks SET state = ?, due = ?, reason = ? WHERE id = ?",
            state, due, reason, task,
        )  # fmt: skip
        self._do(COLUMNS[kind], host)

    def _free(self, task: int | None, *, asked: bool = True) -> None:
        """The task's request is over: its host may be asked again."""
        query = "SELECT host, before, asked FROM tasks WHERE id = ? AND busy = 1"
        for host, before, this in list(self._rows(query, task)):
            self._do("UPDATE tasks SET busy = 0 WHERE id = ?", task)
            self._do("UPDATE hosts SET busy = busy - 1 WHERE host = ?", host)
            if not asked:  # it got to see nothing
                self._do(
                    "UPDATE hosts SET asked = ? WHERE host = ? AND asked = ?", before, host, this
                )

    def _reclaim(self) -> int:
        query = "SELECT id FROM tasks WHERE state = 'leased' AND due <= ?"
        found = list(self._rows(query, self._clock()))
        for (task,) in found:
            self._give_back(task, "lease_expired", 0.0)
        return len(found)

    def _wake(self) -> None:
        query = "SELECT id, kind, host FROM tasks WHERE state = 'delayed' AND due <= ?"
        for task, kind, host in list(self._rows(query, self._clock())):
            self._do("UPDATE tasks SET state = 'queued' WHERE id = ?", task)
            self._do(COLUMNS[kind], host)

    def _within_budget(self, kind: Kind) -> bool:
        counts = {row[0]: row[1:] for row in self._rows("SELECT * FROM counts")}
        _, flight, done = counts[kind]
        if flight + done >= self._most[kind]:
            return False
        return kind == "image" or sum(counts["image"]) < self._limits.max_images

    def _held(self, token: str) -> int | None:
        """Id of the task that this token still holds."""
        task, _, tries = token.partition(".")
        query = "SELECT id FROM tasks WHERE id = ? AND tries = ? AND state = 'leased'"
        row = next(self._rows(query, int(task), int(tries)), None)
        return None if row is None else int(row[0])

    def _settle_host(self, kind: str, host: str, *, counts: bool) -> None:
        if kind == "page":
            column = "fetched = fetched + 1" if counts else "taken = taken - 1"
            self._do(f"UPDATE hosts SET {column} WHERE host = ?", host)  # noqa: S608 - ours
            self._close_if_full(host)

    def _close_if_full(self, host: str) -> None:
        """Nobody will fetch what is left of a host whose budget is used up."""
        (fetched,) = next(self._rows("SELECT fetched FROM hosts WHERE host = ?", host))
        if fetched >= self._per_host:
            left = self._do(
                "UPDATE tasks SET state = 'over' WHERE kind = 'page' AND host = ?"
                " AND state IN ('queued', 'delayed')",
                host,
            )
            self._count("page", queued=-left)
            self._do(COLUMNS["page"], host)

    def _know(self, host: str) -> None:
        self._do(
            "INSERT OR IGNORE INTO hosts (host, delay, concurrency) VALUES (?, ?, 1)",
            host, self._limits.default_delay,
        )  # fmt: skip

    def _count(self, kind: str, *, queued: int = 0, flight: int = 0, done: int = 0) -> None:
        self._do(
            "UPDATE counts SET queued = queued + ?, flight = flight + ?, done = done + ?"
            " WHERE kind = ?",
            queued, flight, done, kind,
        )  # fmt: skip

    def _hosts(self, now: float) -> list[HostStatus]:
        query = (
            "SELECT h.host, count(*) AS n, h.busy, h.delay, h.concurrency, h.asked, h.paused"
            " FROM tasks t JOIN hosts h USING (host) WHERE t.state IN ('queued', 'delayed')"
            " GROUP BY h.host ORDER BY n DESC, h.host LIMIT ?"
        )
        return [
            HostStatus(
                host=host,
                queued=queued,
                in_flight=busy,
                delay=delay,
                concurrency=most,
                wait=max(0.0, asked + delay - now, paused - now),
            )
            for host, queued, busy, delay, most, asked, paused in self._rows(query, SHOWN)
        ]

    def _worker(self, now: float, name: str, beat: float, stats: str) -> WorkerStatus:
        (held,) = next(self._rows("SELECT count(*) FROM tasks WHERE state = 'leased'"))
        return WorkerStatus(
            **WorkerStats.model_validate_json(stats).model_dump(),
            worker=name,
            leases=held,
            last_seen=max(0.0, now - beat),
            stalled=now - beat > self._limits.lease,
        )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _rows(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values)

    def _do(self, query: str, *values: Any) -> int:
        """Run a statement; returns how many rows it changed."""
        return self._db.execute(query, values).rowcount


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
