"""The article's ``TrainingMonitor`` (3.2): keeps the curves and says when to stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

WINDOW = 3
OVERFIT = 1.2  # article: validation loss over 1.2 × training loss


class ProbePoint(NamedTuple):
    """Fixed-probe losses of both splits after ``step`` optimizer steps."""

    step: int
    train: float
    validation: float


class TrainingMonitor:
    """Curves of a run, kept as JSON lines in a file that a resumed run goes on with."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.losses: list[float] = []
        self.probes: list[ProbePoint] = []

    def resume(self, step: int) -> None:
        """Read the file and cut whatever lies after ``step``."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        kept = []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed run
                break
            if row["step"] > step:
                break
            kept.append(line)
            self._take(row)
        self._file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def log(self, row: dict[str, float | int]) -> None:
        """Append one row: ``step`` and ``loss, lr, grad_norm`` or ``train_probe, val``."""
        self._take(row)
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def _take(self, row: dict[str, float | int]) -> None:
        if "loss" in row:
            self.losses.append(float(row["loss"]))
        if "val" in row:
            point = ProbePoint(int(row["step"]), float(row["train_probe"]), float(row["val"]))
            self.probes.append(point)

    def recent_loss(self, window: int = 50) -> float:
        """Mean of the last training losses; NaN before the first."""
        last = self.losses[-window:]
        return sum(last) / len(last) if last else math.nan

    def detect_overfitting(self, window: int = WINDOW) -> bool:
        """The article's rule: validation loss over 1.2 × training loss, windowed.

        Both are fixed probes and each is taken relative to its value before training: the
        two sets of images differ in difficulty, and the article's raw ratio would stop on
        that alone.
        """
        if len(self.probes) < 2 * window:
            return False
        first, last = self.probes[0], self.probes[-window:]
        train = sum(point.train for point in last) / window / max(first.train, 1e-12)
        validation = sum(point.validation for point in last) / window
        return validation / max(first.validation, 1e-12) > train * OVERFIT
