"""The article's ``TrainingMonitor`` (3.2): keeps the curves and says when something is wrong.

Both splits are probed with the same timesteps and noise each time, so that a draw's loss compares
with its own at step 0 and what is left is the training's doing (after DVAR, arXiv 2302.04841).
Images are what chance picked: intervals are bootstraps over images, draws of one image together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_factory.contracts.options import TrainingAction
from lora_factory.train.events import FOLDER, Events

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 3  # article: the mean of the last three
OVERFIT = 1.2  # article: validation loss over 1.2 × training loss
RISE = 0.02  # of validation over its best, at least; intervals over few images are too narrow
COLLAPSE = 0.5  # predictions half as diverse, or half as large, as before training
FEWEST_IMAGES = 4  # a bootstrap over fewer says nothing
RESAMPLES = 1000

Evidence = dict[str, float]


class ProbePoint(NamedTuple):
    """Fixed probes after ``step`` optimizer steps.

    ``train`` and ``validation`` are mean losses, ``*_losses`` those of each draw. ``spread`` and
    ``size`` are of predicted clean latents, against the true ones' (1: alike).
    """

    step: int
    train: float
    validation: float
    train_losses: tuple[float, ...] = ()
    validation_losses: tuple[float, ...] = ()
    spread: float = 1.0
    size: float = 1.0


class TrainingMonitor:
    """Curves of a run, kept as JSON lines in a file that a resumed run goes on with.

    ``images``: which image each draw of the training and of the validation probe shows.
    """

    def __init__(
        self,
        file: Path,
        images: tuple[Sequence[int], Sequence[int]] = ((), ()),
        *,
        write: bool = True,
    ) -> None:
        self._file, self._images, self._write = file, images, write
        self.events: Events | None = None
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.probes: list[ProbePoint] = []
        self.actions: list[TrainingAction] = []

    # -- rows

    def resume(self, step: int) -> list[str]:
        """Read the file and cut whatever lies after ``step``; the rows that stay."""
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
        self._file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.follow(kept)
        self.events = Events(self._file.with_name(FOLDER), kept)
        return kept

    def follow(self, rows: Sequence[str]) -> None:
        """Know what another process read."""
        for row in rows:
            self._take(json.loads(row))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row.

        ``step`` and: ``loss, lr, grad_norm``; or ``train_probe, val, train_losses, val_losses,
        spread, size``; or ``action`` (see :class:`TrainingAction`).
        """
        self._take(row)
        if self._write:
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            if self.events is not None:
                self.events.add(row)

    def log_probe(self, point: ProbePoint) -> None:
        """Append a probe."""
        self.log({
            "step": point.step,
            "train_probe": point.train,
            "val": point.validation,
            "train_losses": point.train_losses,
            "val_losses": point.validation_losses,
            "spread": point.spread,
            "size": point.size,
        })

    def act(self, action: TrainingAction) -> None:
        """Append what was done about something."""
        self.log({"step": action.step, "action": action.model_dump(mode="json", exclude={"step"})})

    def _take(self, row: Mapping[str, Any]) -> None:
        if "loss" in row:
            self.losses.append(float(row["loss"]))
            self.norms.append(float(row["grad_norm"]))
        if "val" in row:
            self.probes.append(
                ProbePoint(
                    int(row["step"]),
                    float(row["train_probe"]),
                    float(row["val"]),
                    tuple(row.get("train_losses", ())),
                    tuple(row.get("val_losses", ())),
                    float(row.get("spread", 1.0)),
                    float(row.get("size", 1.0)),
                )
            )
        if "action" in row:
            self.actions.append(TrainingAction(step=row["step"], **row["action"]))

    def recent_loss(self, window: int = 50) -> float:
        """Mean of the last training losses; NaN before the first."""
        last = self.losses[-window:]
        return sum(last) / len(last) if last else math.nan

    # -- what is wrong

    def detect_overfitting(self, since: int = 0, window: int = WINDOW) -> Evidence | None:
        """The article's rule, where chance doesn't explain it; None: no sign of it.

        Of the last ``window`` probes after step ``since``, each loss taken relative to the same
        draws' before training (two sets of images differ in difficulty; the article's raw ratio
        would stop on that alone):

        - validation's is over 1.2 × training's, and over 1 × by the 95% interval, and
        - validation is 2 % worse than in its best such window before, and worse by the interval.
          (A single best probe is the luckiest of many: chance alone looks like a rise from it.)
        """
        found = self._window(since, window)
        if found is None:
            return None
        first, earlier = self.probes[0], self.probes[:-window]
        best = min(
            (earlier[at : at + window] for at in range(len(earlier) - window + 1)),
            key=lambda points: sum(point.validation for point in points),
        )
        train = _by_image(self._images[0], first.train_losses, _mean(p.train_losses for p in found))
        validation = _by_image(
            self._images[1],
            first.validation_losses,
            _mean(p.validation_losses for p in found),
            _mean(p.validation_losses for p in best),
        )
        if min(train.shape[1], validation.shape[1]) < FEWEST_IMAGES:
            return None
        t, v = _resampled(train, 1), _resampled(validation, 2)
        ratio = _ratio(*validation[:2].sum(1)) / _ratio(*train[:2].sum(1))
        ratio_low = _low((v[1] / v[0]) / (t[1] / t[0]))
        rise = _ratio(validation[2].sum(), validation[1].sum()) - 1
        rise_low = _low(v[1] / v[2] - 1)
        if ratio > OVERFIT and ratio_low > 1 and rise > RISE and rise_low > 0:
            return {"ratio": ratio, "ratio_low": ratio_low, "rise": rise, "rise_low": rise_low}
        return None

    def detect_mode_collapse(self, since: int = 0, window: int = WINDOW) -> Evidence | None:
        """Predictions that grew alike or shrank: half of what they were (or ought to be).

        Before training a prediction may vary more than the pictures do; falling to what they
        vary is learning, so the bound is half of the lower of the two.
        """
        found = self._window(since, window)
        if found is None:
            return None
        evidence: Evidence = {}
        for name in ("spread", "size"):
            before = getattr(self.probes[0], name)
            now = sum(getattr(point, name) for point in found) / len(found)
            if now < COLLAPSE * min(before, 1.0):
                evidence |= {name: now, f"{name}_before": before}
        return evidence or None

    def _window(self, since: int, window: int) -> list[ProbePoint] | None:
        later = [point for point in self.probes if point.step >= since]
        return later[-window:] if len(later) >= 2 * window else None


def _mean(rows: Any) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _by_image(images: Sequence[int], *losses: Sequence[float]) -> NDArray[np.float64]:
    """kinds of loss × images, each the sum over an image's draws."""
    import numpy as np

    numbers = np.unique(np.asarray(images, dtype=int), return_inverse=True)[1]
    count = int(numbers.max(initial=-1)) + 1
    return np.stack([np.bincount(numbers, kind, count) for kind in losses])


def _resampled(sums: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """kinds × resamples: each the sum over images drawn with replacement."""
    import numpy as np

    images = sums.shape[1]
    drawn = np.random.default_rng(seed).integers(images, size=(RESAMPLES, images))
    found: NDArray[np.float64] = np.maximum(sums[:, drawn].sum(axis=2), 1e-12)
    return found


def _ratio(before: float, now: float) -> float:
    return float(now / max(before, 1e-12))


def _low(values: NDArray[np.float64]) -> float:
    """Lower end of the 95% interval."""
    import numpy as np

    return float(np.quantile(values, 0.025))
