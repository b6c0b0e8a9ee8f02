"""Pictures drawn while a training runs: what a person looks at before the loss says anything.

The same prompts and seeds each time, so that only the training makes a difference. They may cost
a share of the training's time; where drawing is slow there are fewer of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.records import DatasetRecord, read_jsonl
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.diffusion.objective import autocast
from lora_factory.errors import Interrupted
from lora_factory.train.memory import out_of_memory

if TYPE_CHECKING:
    from lora_factory.contracts.stage import StageContext
    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger(__name__)
FOLDER = "samples"
PROMPTS = "prompts.json"
TIMES = 6  # in a training, at most; with fewer epochs than that, after each of them
SHARE = 0.05  # of the training's time, at most
STEPS = 12  # denoising steps, at most: a look, no release
SEED = 1000  # of the first prompt


class Samples:
    """Draws with whatever weights the adapter has.

    Args:
        plan: of the training.
        base: draws; its encoders are released afterwards.
        prompts: one picture each, in order of importance; none: never draws.
        ctx: its ``scratch`` gets the pictures as they come; its ``stop`` ends the drawing.
    """

    def __init__(
        self, plan: TrainPlan, base: DiffusionBase, prompts: Sequence[str], ctx: StageContext
    ) -> None:
        self._plan, self._base, self._stop = plan, base, ctx.stop
        self._folder = ctx.scratch / FOLDER
        self._requests = [
            GenerationRequest(prompt, SEED + number) for number, prompt in enumerate(prompts)
        ]
        self._due = sample_steps(plan.steps, plan.epochs) if prompts else []
        self._spent, self._each = 0.0, 0.0  # seconds: in all, and of one picture lately
        if prompts:
            self._folder.mkdir(exist_ok=True)
            told = {name: getattr(plan, name) for name in ("base", "seed")}
            told |= {"prompts": list(prompts), "seeds": [each.seed for each in self._requests]}
            (self._folder / PROMPTS).write_text(json.dumps(told), encoding="utf-8")

    def resume(self, step: int) -> None:
        """Forget what lies after ``step``: those steps are trained again."""
        for file in self._folder.glob("*.png") if self._due else ():
            if step_of(file) > step:
                file.unlink()

    def due(self, before: int, step: int) -> bool:
        """Whether pictures are wanted of a step after ``before`` up to ``step``."""
        return any(before < wanted <= step for wanted in self._due)

    def draw(self, step: int, seconds: float) -> None:
        """Draw as many prompts as the time allows; ``seconds`` is what ``step`` steps took."""
        count = self._affordable(step, seconds)
        if not count:
            return
        began = time.monotonic()
        try:
            with autocast(self._base.device, self._plan.mixed_precision):
                images = self._base.generate(
                    self._requests[:count],
                    steps=min(STEPS, self._base.entry.steps),
                    guidance=self._base.entry.guidance,
                    on_step=lambda _done, _all: not self._stop.is_set(),
                )
        except Interrupted:  # the loop writes its checkpoint and ends
            images = []
        except RuntimeError as err:
            if not out_of_memory(err):
                raise
            log.warning("no memory for sample pictures beside the training; going on without them")
            self._due = []
            images = []
        self._base.release_encoders()  # and whatever else can be given back
        for number, image in enumerate(images):
            file = self._folder / f"step-{step:06d}-{number}.png"
            part = file.with_name(f".{file.name}.part")
            image.save(part, format="PNG")
            part.replace(file)
        took = time.monotonic() - began
        self._spent += took
        self._each = took / count

    def _affordable(self, step: int, seconds: float) -> int:
        """How many pictures the share of the whole training's time up to here still pays for."""
        if not self._each:
            return 1  # tells what one costs
        earned = SHARE * seconds * self._plan.steps / step
        earned *= sum(wanted <= step for wanted in self._due) / len(self._due)
        return max(0, min(len(self._requests), int((earned - self._spent) / self._each)))

    def publish(self, out: Path, step: int) -> tuple[str, ...]:
        """Copy what was drawn up to ``step`` to the artifact ``out``; the paths in it."""
        files = sorted(self._folder.glob("*.png")) if self._requests else []
        files = [file for file in files if step_of(file) <= step]
        if not files:
            return ()
        (out / FOLDER).mkdir()
        for file in (*files, self._folder / PROMPTS):
            (out / FOLDER / file.name).write_bytes(file.read_bytes())
        return tuple(f"{FOLDER}/{file.name}" for file in files)


def sample_steps(steps: int, epochs: int) -> list[int]:
    """After each epoch, or at ``TIMES`` even shares of the steps where there are more."""
    times = min(TIMES, epochs, steps)
    return sorted({round(steps * number / times) for number in range(1, times + 1)})


def step_of(file: Path) -> int:
    """Of ``step-000080-0.png``."""
    return int(file.name.split("-")[1])


def sample_prompts(ctx: StageContext, count: int) -> list[str]:
    """Captions of the first validation items, spread over the split; of training ones without.

    The dataset's file was read and checked when it was encoded.
    """
    for split in ("validation", "train"):
        file = ctx.inputs["dataset"].path / split / "metadata.jsonl"
        records = list(read_jsonl(file, DatasetRecord)) if file.is_file() else []
        captions = list(dict.fromkeys(record.text for record in records))
        if captions and count:
            taken = min(count, len(captions))
            return [captions[len(captions) * number // taken] for number in range(taken)]
    return []
