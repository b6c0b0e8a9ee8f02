"""A training's curves as TensorBoard reads them, beside ``training.jsonl``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
FILE = "events.out.tfevents.0.training"
"""In the artifact; while it runs the file's name has a time and this machine's name."""
FLUSH_SECONDS = 2.0
TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "train_probe": "probe/training",
    "val": "probe/validation",
    "spread": "probe/spread",
    "size": "probe/size",
}
"""Name in a row of ``training.jsonl`` → tag."""


class Events:
    """Writes rows of ``training.jsonl`` as events. Not a thread's nor a process's work: a row
    is some hundred bytes, flushed every few seconds.

    Args:
        folder: made anew; ``tensorboard --logdir`` takes it while the training runs.
        rows: to begin with (JSON), those of a run that goes on.
    """

    def __init__(self, folder: Path, rows: Sequence[str] = ()) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder = folder
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        for row in rows:
            self.add(json.loads(row))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the numbers and the action of a row."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = list(_values(row))
        if values:
            event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
            self._writer.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def publish(self, out: Path) -> None:
        """Close, and copy to the artifact ``out``."""
        self._writer.close()
        (out / FOLDER).mkdir()
        shutil.copyfile(next(self._folder.iterdir()), out / FOLDER / FILE)


def _values(row: Mapping[str, Any]) -> Iterator[Any]:
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import text

    for name, tag in TAGS.items():
        if name in row:
            yield Summary.Value(tag=tag, simple_value=float(row[name]))
    if "action" in row:
        action = row["action"]
        yield from text("actions", f"**{action['what']}**: {action['did']}").value
