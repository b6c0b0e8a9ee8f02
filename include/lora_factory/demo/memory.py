"""Peak memory of the demo and of everything it started."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Samples the summed proportional set size of this process and its descendants.

    Proportional: pages that processes share are counted once. ``peak`` is in bytes.
    """

    def __init__(self, every: float = 3.0) -> None:
        self.peak = 0
        self._every = every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        this = psutil.Process()
        while not self._end.wait(self._every):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended meanwhile
            self.peak = max(self.peak, total)
