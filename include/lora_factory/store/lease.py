"""A lease on an artifact key: two processes never work on the same artifact at once.

A file lock (flock): the operating system gives it back when the holder dies, however it
dies, so there is nothing to expire and nothing to renew. It covers the case that occurs,
a retry on the machine where the killed child still lives. On other machines the
conditional manifest write keeps two attempts from damaging each other.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_factory.errors import LeaseHeld


@contextmanager
def lease(folder: Path, key: str, wait: float = 15.0) -> Iterator[None]:
    """Hold the lease on ``key`` for the length of the block.

    Args:
        folder: where lock files live, on a local disk.
        key: artifact key.
        wait: seconds to wait for a holder that is about to end.

    Raises:
        LeaseHeld: it is still held after ``wait`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with (folder / f"{key}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    msg = f"another process still works on artifact {key}; try again later"
                    raise LeaseHeld(msg) from None
                time.sleep(0.2)
        yield
