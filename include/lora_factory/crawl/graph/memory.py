"""What is remembered of public graphs between runs: their answers, and that one is down.

One SQLite file in the deployment's scratch folder; answers are JSON, at most :data:`MAX_BYTES`
and :data:`MAX_AGE`. Nothing here raises: without the file graphs are asked anew.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.graph.base import Absent, KnowledgeGraph, Related, clean_term

log = logging.getLogger(__name__)

FILE = "graphs.sqlite3"
MAX_AGE = 30 * 24 * 3600.0  # seconds; what words are related to changes slowly
MAX_BYTES = 32 * 1024 * 1024
FAILURES = 3
"""Failures in a row after which a graph is left alone."""
REST = 60.0
"""Seconds it is then left alone; twice that after each failed try, up to MAX_REST."""
MAX_REST = 3600.0
PROBE = 30.0
"""Seconds in which no second try is made beside the one that may find it up again."""
_TABLES = """
CREATE TABLE IF NOT EXISTS answer (
    graph TEXT, key TEXT, at REAL, body TEXT, PRIMARY KEY (graph, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rest (
    graph TEXT PRIMARY KEY, failures INTEGER, until REAL) WITHOUT ROWID;
"""


class Memory:
    """The file.

    Args:
        folder: the deployment's scratch folder.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / FILE
        self.clock = clock

    def recall(self, graph: str, key: str) -> str | None:
        """An answer that is not too old."""
        found: list[tuple[str]] = self._do(
            "SELECT body FROM answer WHERE graph = ? AND key = ? AND at > ?",
            (graph, key, self.clock() - MAX_AGE),
        )
        return str(found[0][0]) if found else None

    def keep(self, graph: str, key: str, body: str) -> None:
        """Remember an answer; the oldest give way where the file gets too large."""
        self._do(
            "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)", (graph, key, self.clock(), body)
        )
        self._do("DELETE FROM answer WHERE at <= ?", (self.clock() - MAX_AGE,))
        self._do(
            "DELETE FROM answer WHERE (graph, key) IN (SELECT graph, key FROM (SELECT graph, key, "
            "sum(length(body) + length(key)) OVER (ORDER BY at DESC, key) AS total FROM answer) "
            "WHERE total > ?)",
            (MAX_BYTES,),
        )

    def rest(self, graph: str) -> tuple[int, float]:
        """Failures in a row, and until when the graph is left alone."""
        found: list[tuple[int, float]] = self._do(
            "SELECT failures, until FROM rest WHERE graph = ?", (graph,)
        )
        return found[0] if found else (0, 0.0)

    def set_rest(self, graph: str, failures: int, until: float) -> None:
        """Remember them."""
        self._do("INSERT OR REPLACE INTO rest VALUES (?, ?, ?)", (graph, failures, until))

    def _do(self, statement: str, values: Sequence[Any]) -> list[Any]:
        for again in (False, True):
            try:
                with self._open() as connection:
                    return connection.execute(statement, values).fetchall()
            except sqlite3.DatabaseError as err:
                if again or isinstance(err, sqlite3.OperationalError):
                    log.warning("%s can't be used (%s): graphs are asked anew", self._path, err)
                    return []
                log.warning("%s is damaged (%s) and made anew", self._path, err)
                self._path.unlink(missing_ok=True)
            except OSError as err:
                log.warning("%s can't be used (%s): graphs are asked anew", self._path, err)
                return []
        return []

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=2.0)) as connection, connection:
            connection.executescript(_TABLES)
            yield connection


class Breaker:
    """Circuit breaker (Nygard, Release It!): a service that fails is left alone for a while.

    Closed: requests pass. After :data:`FAILURES` in a row it is open: none do, until the rest is
    over; then half-open: one passes, and its outcome closes it or doubles the rest.
    """

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory, self._name = memory, name

    def enter(self) -> None:
        """Ask before a request.

        Raises:
            Absent: open.
        """
        failures, until = self._memory.rest(self._name)
        left = until - self._memory.clock()
        if left > 0:
            msg = f"left alone for another {left:.0f} s after {failures} failures in a row"
            raise Absent(msg)
        if failures >= FAILURES:
            self._memory.set_rest(self._name, failures, self._memory.clock() + PROBE)

    def succeeded(self) -> None:
        """Tell that a request was answered."""
        if self._memory.rest(self._name) != (0, 0.0):
            self._memory.set_rest(self._name, 0, 0.0)

    def failed(self, wait: float = 0.0) -> None:
        """Tell that one was not; ``wait`` is what the service itself asked for, seconds."""
        failures = self._memory.rest(self._name)[0] + 1
        if failures >= FAILURES:
            wait = max(wait, min(MAX_REST, REST * 2 ** min(16, failures - FAILURES)))
        until = self._memory.clock() + min(wait, MAX_REST) if wait else 0.0
        self._memory.set_rest(self._name, failures, until)


class Remembered:
    """A graph whose answers are kept."""

    def __init__(self, graph: KnowledgeGraph, memory: Memory, endpoint: str) -> None:
        self.name: Graph = graph.name
        self._graph, self._memory, self._endpoint = graph, memory, endpoint

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """What was answered before, or what the graph answers now.

        Raises:
            GraphError: it was never asked, and can't be now.
        """
        key = json.dumps([self._endpoint, term, limit])
        body = self._memory.recall(self.name, key)
        if body is not None and (known := _read(body)) is not None:
            return known
        found = self._graph.related(term, limit)
        self._memory.keep(self.name, key, json.dumps([asdict(one) for one in found]))
        return found

    def close(self) -> None:
        """Close the graph."""
        self._graph.close()


def _read(body: str) -> list[Related] | None:
    """Answers as they were kept; None where somebody else wrote them."""
    try:
        found = [Related(**entry) for entry in json.loads(body)]
    except (ValueError, TypeError, RecursionError):
        return None
    for one in found:
        texts = (one.term, one.relation, one.source, one.language)
        if not all(isinstance(text, str) for text in texts) or clean_term(one.term) != one.term:
            return None
        if type(one.weight) is not float or not 0 < one.weight <= 1:
            return None
    return found
