"""Before and after: pictures of the same prompts and seeds, and the time each took alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from lora_factory.contracts.progress import Progress
from lora_factory.diffusion.base import GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.stage import StageContext
    from lora_factory.diffusion.base import DiffusionBase

SMALLER = 0.9
"""A build this much of the size is smaller…"""
FASTER = 0.95
"""…and one that takes this much of the time faster, than noise could make it."""
ALIKE = 0.5
"""A build may change pictures by this much of what the LoRA changes, and be judged at all."""


@dataclass(frozen=True)
class Compared:
    """Medians of seconds a picture; mean absolute differences of pictures, 0 to 255."""

    seconds_before: float
    seconds_after: float
    difference: float
    change: float

    def worthwhile(self, size: float) -> bool:
        """Whether a build of this share of the size is worth an evaluation."""
        gain = size <= SMALLER or self.seconds_after <= FASTER * self.seconds_before
        return gain and self.difference <= ALIKE * max(self.change, 1.0)


def compare(
    base: DiffusionBase,
    before: str,
    after: str,
    requests: Sequence[GenerationRequest],
    steps: int,
    ctx: StageContext,
) -> Compared:
    """Draw each request with the base, with ``before`` and with ``after``, taking turns.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    # Processor time on a CPU: other load hardly moves it (as evaluate's efficiency).
    clock = time.process_time if base.device == "cpu" else time.perf_counter

    def draw(name: str | None, request: GenerationRequest, steps: int) -> tuple[Image, float]:
        ctx.check_stop()
        base.use_adapter(name)
        start = clock()
        image = base.generate([request], steps=steps, guidance=base.entry.guidance, batch_size=1)[0]
        return image, clock() - start

    ways: tuple[str | None, ...] = (None, before, after)
    for name in ways:  # loads, compiles, fills caches
        draw(name, requests[0], 2)
    seconds: dict[str | None, list[float]] = {name: [] for name in ways}
    changes, differences = [], []
    progress = Progress("before and after", len(requests), "pictures")
    for request in requests:
        images = {}
        for name in ways:
            images[name], took = draw(name, request, steps)
            seconds[name].append(took)
        changes.append(_apart(images[None], images[before]))
        differences.append(_apart(images[before], images[after]))
        progress.advance()
    return Compared(
        median(seconds[before]),
        median(seconds[after]),
        sum(differences) / len(differences),
        sum(changes) / len(changes),
    )


def _apart(one: Image, other: Image) -> float:
    import numpy as np

    left, right = (np.asarray(image, dtype=np.float32) for image in (one, other))
    return float(np.abs(left - right).mean())
