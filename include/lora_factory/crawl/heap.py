"""What is waiting to be fetched, best first, within an exact budget."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Frontier(Generic[T]):
    """A priority queue that hands out no more than ``limit`` items that count.

    An item handed out may turn out not to count (closed by robots.txt, a picture that is
    dropped); then another takes its place. ``done + in_flight`` never exceeds ``limit``.

    Args:
        limit: how many items may count in all.
        window: how many may be out at once; small, so that late but better ones come first.
    """

    def __init__(self, limit: int, window: int = 16) -> None:
        self._limit, self._window = limit, window
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()
        self.in_flight = 0
        self.done = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def full(self) -> bool:
        """True once the budget is used up."""
        return self.done >= self._limit

    def add(self, item: T, score: float = 0.0) -> None:
        """Queue an item; among equal scores the first comes first."""
        heapq.heappush(self._heap, (-score, next(self._order), item))

    def take(self) -> Iterator[T]:
        """Hand out what may be fetched now."""
        while (
            self._heap
            and self.in_flight < self._window
            and self.in_flight + self.done < self._limit
        ):
            self.in_flight += 1
            yield heapq.heappop(self._heap)[2]

    def settle(self, *, counts: bool) -> None:
        """An item handed out has been dealt with."""
        self.in_flight -= 1
        self.done += counts

    def drain(self) -> Iterator[T]:
        """Remove and yield whatever is left, best first."""
        while self._heap:
            yield heapq.heappop(self._heap)[2]
