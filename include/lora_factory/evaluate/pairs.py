"""Paired generations: the base and the LoRA on the same prompts, seeds and scheduler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.progress import Progress
from lora_factory.diffusion.base import GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.contracts.stage import StageContext
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.evaluate.statistics import Floats

ADAPTER = "evaluated"
BATCH = 8
"""Images a batch: the time between two looks at the stop flag is a step of one batch."""
REPEATS = 5


@dataclass(frozen=True)
class Timings:
    """Seconds for one picture, run by run; runs of one index were made right after each other.

    On a CPU these are seconds of processor time, which other load hardly moves (measured at
    load 8 on two cores: base / fused between 0.86 and 0.92, by the clock between 0.6 and
    1.06); on an accelerator they are seconds by the clock.

    ``base``: the base alone. ``fused``: fusing the adapter into the weights, the picture,
    and taking it out again. ``swapped``: adapter layers kept beside the weights.
    """

    base: Floats
    fused: Floats
    swapped: Floats


def generate_pairs(
    base: DiffusionBase, prompts: Sequence[EvalPrompt], spec: EvaluateSpec, ctx: StageContext
) -> tuple[list[Image], list[Image]]:
    """Images of the base and of the adapter ``ADAPTER``, row by row.

    Pictures go to ``ctx.scratch`` as they are made, so that a retry goes on from them.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    made: dict[str, list[Image]] = {"base": [], "lora": []}
    batch = min(BATCH, base.entry.batch_size)
    progress = Progress("evaluate", 2 * len(prompts), "pictures")
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        for side, adapter in (("base", None), ("lora", ADAPTER)):
            ctx.check_stop()
            files = [ctx.scratch / side / f"{start + i:04d}.png" for i in range(len(part))]
            images = _kept(files)
            if images is None:
                base.use_adapter(adapter)
                images = base.generate(
                    [GenerationRequest(prompt.text, prompt.seed) for prompt in part],
                    steps=spec.steps,
                    guidance=spec.guidance,
                    batch_size=batch,
                    on_step=lambda _done, _all: not ctx.stop.is_set(),
                )
                _keep(images, files)
            made[side] += images
            progress.advance(len(part))
    return made["base"], made["lora"]


def time_one_picture(
    base: DiffusionBase, prompt: EvalPrompt, spec: EvaluateSpec, ctx: StageContext
) -> Timings:
    """Time one picture in three ways, taking turns, so that other load hits all alike."""
    request = [GenerationRequest(prompt.text, prompt.seed)]
    clock = time.process_time if base.device == "cpu" else time.perf_counter

    def picture(steps: int) -> None:
        ctx.check_stop()
        base.generate(request, steps=steps, guidance=spec.guidance, batch_size=1)

    def timed(way: str, steps: int) -> float:
        base.use_adapter(ADAPTER if way == "swapped" else None)
        start = clock()
        if way == "fused":
            base.fuse_adapter(ADAPTER)
        picture(steps)
        if way == "fused":
            base.unfuse_adapter()
        return clock() - start

    ways = ("base", "fused", "swapped")
    for way in ways:
        timed(way, 2)  # warm-up
    seconds = np.array([[timed(way, spec.steps) for way in ways] for _ in range(REPEATS)])
    return Timings(*seconds.T)


def _kept(files: Sequence[Path]) -> list[Image] | None:
    from PIL import Image as PilImage

    if not all(file.is_file() for file in files):
        return None
    images = []
    for file in files:
        with PilImage.open(file) as image:
            images.append(image.convert("RGB"))
    return images


def _keep(images: Sequence[Image], files: Sequence[Path]) -> None:
    for image, file in zip(images, files, strict=True):
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        image.save(part, format="PNG")
        part.replace(file)
