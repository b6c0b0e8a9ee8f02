"""Progress of long work, as log lines: done, rate, time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("lora_factory.progress")
T = TypeVar("T")
SHORTEST = 0.05
"""Seconds under which a rate says nothing."""


class Progress:
    """Logs ``label done/total unit, rate/s, N s left`` at most every ``every`` seconds.

    Rate and time left are told once something was done in a time that can be measured. The
    first and the last line always appear. Not thread-safe: one owner.
    """

    def __init__(self, label: str, total: int, unit: str, every: float = 2.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = 0
        self._start = time.monotonic()
        self._last = -1e9

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more items as done; ``note`` is appended when a line is due."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= self.every or self.done == self.total:
            self._last = now
            log.info("%s", self.line(now, note))

    def line(self, now: float, note: str = "") -> str:
        """The line as it would be logged at monotonic time ``now``."""
        text = f"{self.label} {self.done}/{self.total} {self.unit}"
        elapsed = now - self._start
        if self.done and elapsed >= SHORTEST:
            left = max(self.total - self.done, 0) * elapsed / self.done
            text = f"{text}, {self.done / elapsed:.1f}/s, {left:.0f} s left"
        return f"{text}, {note}" if note else text


def track(items: Iterable[T], label: str, total: int, unit: str) -> Iterator[T]:
    """Yield ``items``, logging progress."""
    progress = Progress(label, total, unit)
    for item in items:
        yield item
        progress.advance()
