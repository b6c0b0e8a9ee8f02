from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl.heap import Frontier


def test_best_first_and_first_come_among_equals() -> None:
    frontier: Frontier[str] = Frontier(10)
    for name, score in [("low", 0.1), ("high", 0.9), ("mid", 0.5), ("mid too", 0.5)]:
        frontier.add(name, score)
    assert list(frontier.take()) == ["high", "mid", "mid too", "low"]


def test_what_does_not_count_is_replaced() -> None:
    frontier: Frontier[int] = Frontier(2)
    for number in range(5):
        frontier.add(number)
    assert list(frontier.take()) == [0, 1]
    frontier.settle(counts=False)
    assert list(frontier.take()) == [2]
    frontier.settle(counts=True)
    frontier.settle(counts=True)
    assert frontier.full
    assert list(frontier.take()) == []
    assert list(frontier.drain()) == [3, 4]


@given(
    limit=st.integers(0, 12),
    window=st.integers(1, 5),
    items=st.integers(0, 30),
    verdicts=st.lists(st.booleans(), max_size=40),
)
def test_never_more_than_the_budget(
    limit: int, window: int, items: int, verdicts: list[bool]
) -> None:
    frontier: Frontier[int] = Frontier(limit, window)
    for number in range(items):
        frontier.add(number)
    out = len(list(frontier.take()))
    for counts in verdicts:
        assert frontier.in_flight + frontier.done <= limit
        assert frontier.in_flight <= window
        if not frontier.in_flight:
            break
        frontier.settle(counts=counts)
        out += len(list(frontier.take()))
    assert out + len(frontier) == items
