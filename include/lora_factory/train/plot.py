"""``loss.png``: what a person looks at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_factory.train.monitor import TrainingMonitor


def plot_losses(monitor: TrainingMonitor, best_step: int, file: Path) -> None:
    """Training loss (each step, and smoothed) and both fixed probes against steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=100)
    steps = range(1, len(monitor.losses) + 1)
    axes.plot(steps, monitor.losses, color="0.85", linewidth=0.8, label="training loss")
    axes.plot(steps, smooth(monitor.losses), color="0.45", label="training loss, smoothed")
    at = [point.step for point in monitor.probes]
    axes.plot(at, [p.train for p in monitor.probes], "o-", ms=4, label="training probe")
    axes.plot(at, [p.validation for p in monitor.probes], "o-", ms=4, label="validation probe")
    axes.axvline(best_step, color="tab:green", linestyle=":", label=f"kept: step {best_step}")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("denoising loss")
    axes.legend(loc="upper right", fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def smooth(values: Sequence[float], decay: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start at zero."""
    found, average, weight = [], 0.0, 0.0
    for value in values:
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        found.append(average / weight)
    return found
