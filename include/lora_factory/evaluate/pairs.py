"""Paired generations: the base and the LoRA on the same prompts, seeds and scheduler."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory import __version__
from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.progress import Progress
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.evaluate.cache import PictureCache

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.evaluate.statistics import Floats
    from lora_factory.models.profiles import BaseEntry

BATCH = 16
"""Images a batch: the time between two looks at the stop flag is a step of one batch."""
REPEATS = 4
"""Runs of the base and of the fused adapter; layers kept beside are for the note: half as many."""
PICTURES_VERSION = 2
"""Raise it when the same request gives another picture."""
FOLDER = "base_pictures"


@dataclass(frozen=True)
class Adapter:
    """A LoRA loaded into the base."""

    name: str
    sha256: str
    """Of its file."""
    size: int
    """Of its file, bytes."""
    seconds: float
    """Reading and attaching it: what a hot swap costs."""
    built: bool = False
    """A denoiser with the LoRA in its weights: it has no other strength, and needs no fusing."""

    @classmethod
    def load(cls, base: DiffusionBase, name: str, file: Path) -> Adapter:
        """Attach a file to the base.

        Raises:
            ModelError: it isn't a LoRA for this base.
        """
        start = time.perf_counter()
        base.load_adapter(name, file)
        seconds = time.perf_counter() - start
        data = file.read_bytes()
        return cls(name, hashlib.sha256(data).hexdigest(), len(data), seconds)

    @classmethod
    def load_build(cls, base: DiffusionBase, name: str, build: LocalArtifact) -> Adapter:
        """Load a build in place of a file.

        Raises:
            ModelError: it is damaged, or of another base or machine.
            ConfigurationError: what runs it isn't installed here.
        """
        start = time.perf_counter()
        info = base.load_build(name, build.path)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in build.path.glob(f"{info.file}*"))
        return cls(name, build.sha256, size, seconds, built=info.form != "lora")


@dataclass(frozen=True)
class Timings:
    """Seconds for one picture, run by run; the three ways took turns.

    On a CPU these are seconds of processor time, which other load hardly moves (measured at
    load 8 on two cores: base / fused between 0.86 and 0.92, by the clock between 0.6 and
    1.06); on an accelerator they are seconds by the clock.

    ``base``: the base alone. ``fused``: fusing the adapter into the weights, the picture,
    and taking it out again. ``swapped``: adapter layers kept beside the weights.
    """

    base: Floats
    fused: Floats
    swapped: Floats


class Painter:
    """Makes pictures of a base, with or without an adapter, or finds those made before.

    The base's own (and a deployed LoRA's) go to a folder that all evaluations on this machine
    share (``settings.scratch``), a new adapter's to ``ctx.scratch``, where a retry finds them.
    """

    def __init__(
        self, base: DiffusionBase, revision: str, spec: EvaluateSpec, ctx: StageContext
    ) -> None:
        self.base = base
        self.spec = spec
        self.ctx = ctx
        self._revision = revision
        self.shared = PictureCache(ctx.settings.scratch.expanduser() / FOLDER)
        self.own = PictureCache(ctx.scratch / "pictures")

    def paint(
        self,
        prompts: Sequence[EvalPrompt],
        adapter: Adapter | None = None,
        *,
        strength: float = 1.0,
        steps: int | None = None,
        what: str = "pictures",
        shared: bool = False,
    ) -> list[Image]:
        """One picture a prompt, in order; ``steps`` defaults to the spec's.

        ``shared``: keep an adapter's pictures for other evaluations too.

        Raises:
            Interrupted: the stage was asked to stop; what is made so far is kept.
        """
        steps = steps or self.spec.steps
        cache = self.shared if adapter is None or shared else self.own
        keys = [self.key(prompt, adapter, strength, steps) for prompt in prompts]
        side = self.base.entry.resolution
        found = [cache.get(key, side) for key in keys]
        missing = [row for row, image in enumerate(found) if image is None]
        batch = min(BATCH, self.base.entry.batch_size)
        progress = Progress("evaluate", len(prompts), what)
        if kept := len(prompts) - len(missing):
            progress.advance(kept)
        for start in range(0, len(missing), batch):
            self.ctx.check_stop()
            rows = missing[start : start + batch]
            made = self._make([prompts[row] for row in rows], adapter, strength, steps)
            for row, image in zip(rows, made, strict=True):
                cache.put(keys[row], image)
                found[row] = image
            progress.advance(len(rows))
        if cache is self.shared and missing:
            cache.trim()
        return [image for image in found if image is not None]

    def key(self, prompt: EvalPrompt, adapter: Adapter | None, strength: float, steps: int) -> str:
        """Hex digits over everything that decides a picture."""
        return sha256_json({
            "base": self._revision,
            "device": self.base.device,
            "adapter": None if adapter is None else [adapter.sha256, strength],
            "prompt": prompt.text,
            "seed": prompt.seed,
            "steps": steps,
            "guidance": self.spec.guidance,
            "resolution": self.base.entry.resolution,
            "code": [__version__, PICTURES_VERSION, version("diffusers"), version("torch")],
        })

    def _make(
        self, prompts: Sequence[EvalPrompt], adapter: Adapter | None, strength: float, steps: int
    ) -> list[Image]:
        # On a CPU layers beside the weights cost a quarter of the time; a build has none.
        cheaper = adapter is not None and not adapter.built and self.base.device == "cpu"
        fused = adapter if cheaper else None
        self.base.use_adapter(adapter.name if adapter and not fused else None, strength)
        if fused is not None:
            self.base.fuse_adapter(fused.name, strength)
        try:
            return self.base.generate(
                [GenerationRequest(prompt.text, prompt.seed) for prompt in prompts],
                steps=steps,
                guidance=self.spec.guidance,
                batch_size=len(prompts),
                on_step=lambda _done, _all: not self.ctx.stop.is_set(),
            )
        finally:
            if fused is not None:
                self.base.unfuse_adapter()


def base_megabytes(entry: BaseEntry) -> float | None:
    """Size of a local base's weight files; None where they lie in a hub's cache."""
    folder = Path(entry.location())
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6 or None


def time_one_picture(painter: Painter, adapter: Adapter, prompt: EvalPrompt) -> Timings:
    """Time one picture in three ways, taking turns, so that other load hits all alike.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    base, spec, ctx = painter.base, painter.spec, painter.ctx
    request = [GenerationRequest(prompt.text, prompt.seed)]
    clock = time.process_time if base.device == "cpu" else time.perf_counter

    def picture(steps: int) -> None:
        ctx.check_stop()
        base.generate(request, steps=steps, guidance=spec.guidance, batch_size=1)

    def timed(way: str, steps: int) -> float:
        base.use_adapter(adapter.name if way == "swapped" else None)
        start = clock()
        if way == "fused" and adapter.built:
            base.use_adapter(adapter.name)
        elif way == "fused":
            base.fuse_adapter(adapter.name)
        picture(steps)
        if way == "fused" and not adapter.built:
            base.unfuse_adapter()
        return clock() - start

    found: dict[str, list[float]] = {"base": [], "fused": [], "swapped": []}
    for way in found:
        timed(way, 2)  # warm-up
    for turn in range(REPEATS):
        for way, seconds in found.items():
            if way != "swapped" or turn % 2 == 0:
                seconds.append(timed(way, spec.steps))
    return Timings(*(np.array(seconds) for seconds in found.values()))
