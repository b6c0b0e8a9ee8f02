from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.graph import memory as module
from lora_factory.crawl.graph.base import Absent, Related
from lora_factory.crawl.graph.memory import (
    FAILURES,
    FILE,
    MAX_AGE,
    MAX_REST,
    REST,
    Breaker,
    Memory,
    Remembered,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A graph that says one thing and counts how often."""

    name: Graph = "conceptnet"

    def __init__(self) -> None:
        self.asked = 0

    def related(self, term: str, limit: int) -> Sequence[Related]:
        self.asked += 1
        return [Related("owl", "IsA", 0.5, f"of {term}")]

    def close(self) -> None:
        """Nothing to close."""


def test_answers_are_kept_between_processes_and_age(tmp_path: Path) -> None:
    clock, graph = Clock(), Counting()
    first = Remembered(graph, Memory(tmp_path, clock), "url").related("bird", 5)
    again = Remembered(graph, Memory(tmp_path, clock), "url")
    assert again.related("bird", 5) == first
    assert graph.asked == 1
    again.related("bird", 6)
    again.related("fish", 5)
    Remembered(graph, Memory(tmp_path, clock), "other url").related("bird", 5)
    assert graph.asked == 4
    clock.now += MAX_AGE + 1
    again.related("bird", 5)
    assert graph.asked == 5


def test_the_oldest_answers_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    clock = Clock()
    memory = Memory(tmp_path, clock)
    for number in range(10):
        clock.now += 1
        memory.keep("g", f"{number}", "x" * 300)
    assert [n for n in range(10) if memory.recall("g", str(n)) is not None] == [7, 8, 9]


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[1]",
        '{"term": "owl"}',
        '[{"term": "owl"}]',
        '[{"term": 1, "relation": "r", "weight": 0.5, "source": "s"}]',
        '[{"term": "owl", "relation": "r", "weight": 5, "source": "s"}]',
        '[{"term": "owl", "relation": "r", "weight": 0.5, "source": "s", "more": 1}]',
        '[{"term": "<b>", "relation": "r", "weight": 0.5, "source": "s"}]',
        "[" * 100_000,
    ],
)
def test_an_answer_that_somebody_else_wrote_is_asked_for_anew(tmp_path: Path, body: str) -> None:
    graph, memory = Counting(), Memory(tmp_path)
    Remembered(graph, memory, "url").related("bird", 5)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE answer SET body = ?", (body,))
    assert Remembered(graph, memory, "url").related("bird", 5)[0].term == "owl"
    assert graph.asked == 2


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    memory = Memory(tmp_path)
    memory.keep("g", "k", "v")
    assert memory.recall("g", "k") == "v"


def test_without_the_file_graphs_are_asked_anew(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Memory(tmp_path / "file" / "below")
    memory.keep("g", "k", "v")
    assert memory.recall("g", "k") is None
    Breaker(memory, "g").failed()
    Breaker(memory, "g").enter()


def test_a_breaker_opens_half_opens_and_closes(tmp_path: Path) -> None:
    clock = Clock()
    memory = Memory(tmp_path, clock)
    breaker = Breaker(memory, "g")
    for _ in range(FAILURES):
        breaker.enter()
        breaker.failed()
    with pytest.raises(Absent, match=f"another 60 s after {FAILURES} failures in a row"):
        breaker.enter()
    with pytest.raises(Absent):  # another process knows too
        Breaker(Memory(tmp_path, clock), "g").enter()
    Breaker(memory, "other").enter()
    clock.now += REST + 1
    breaker.enter()  # half-open: one try
    with pytest.raises(Absent):
        Breaker(memory, "g").enter()  # and no second beside it
    breaker.failed()
    clock.now += REST + 1
    with pytest.raises(Absent):  # twice as long now
        breaker.enter()
    clock.now += REST
    breaker.enter()
    breaker.succeeded()
    breaker.enter()
    breaker.failed()  # counted from zero again
    breaker.enter()


def test_a_service_may_ask_to_be_left_alone_but_not_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    breaker = Breaker(Memory(tmp_path, clock), "g")
    breaker.failed(wait=1e9)
    with pytest.raises(Absent):
        breaker.enter()
    clock.now += MAX_REST + 1
    breaker.enter()


def test_the_rest_has_an_end(tmp_path: Path) -> None:
    clock = Clock()
    memory = Memory(tmp_path, clock)
    for _ in range(20):
        Breaker(memory, "g").failed()
    assert memory.rest("g") == (20, clock.now + MAX_REST)
