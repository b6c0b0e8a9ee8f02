"""The XYZ picture: checkpoint × strength × seed, so that a person sees how a LoRA behaves.

Pictures are kept in the stage's scratch folder as they are made, by what makes them: a retry
goes on from them, and settings and the XYZ picture share those they both need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, UnidentifiedImageError

from lora_factory.contracts.base import sha256_json
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.evaluate.grid import CELL, GAP, INK, MARGIN, PAPER, SOFT, paste, write

if TYPE_CHECKING:
    from pathlib import Path

    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.contracts.stage import StageContext
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.evaluate.prompts import EvalPrompt

STRENGTHS = (0.7, 1.0, 1.3)
SEEDS = 2
PROMPTS = 2
MOST_PICTURES = 18
LABEL = 96
"""Width of the checkpoints' names, pixels."""
HEAD = 58
"""Height of a heading, pixels."""


@dataclass(frozen=True)
class Easel:
    """Draws with adapters of a base at any strength, and keeps what it drew."""

    base: DiffusionBase
    spec: EvaluateSpec
    ctx: StageContext

    def draw(
        self, adapter: str, strength: float, steps: int, prompts: Sequence[EvalPrompt]
    ) -> list[Image.Image]:
        """One picture a prompt, in order, with the spec's guidance.

        Raises:
            Interrupted: the stage was asked to stop; pictures made so far are kept.
        """
        files = [self._file(adapter, strength, steps, prompt) for prompt in prompts]
        kept = [_read(file) for file in files]
        wanted = [number for number, image in enumerate(kept) if image is None]
        batch = self.base.entry.batch_size
        for start in range(0, len(wanted), batch):
            self.ctx.check_stop()
            part = wanted[start : start + batch]
            self.base.use_adapter(adapter, strength)
            made = self.base.generate(
                [GenerationRequest(prompts[i].text, prompts[i].seed) for i in part],
                steps=steps,
                guidance=self.spec.guidance,
                batch_size=batch,
                on_step=lambda _done, _all: not self.ctx.stop.is_set(),
            )
            for number, image in zip(part, made, strict=True):
                _write(image, files[number])
                kept[number] = image
        return [image for image in kept if image is not None]

    def _file(self, adapter: str, strength: float, steps: int, prompt: EvalPrompt) -> Path:
        made_by = [adapter, strength, steps, self.spec.guidance, prompt.text, prompt.seed]
        return self.ctx.scratch / "easel" / f"{sha256_json(made_by)[:24]}.png"


@dataclass(frozen=True)
class Axes:
    """What the XYZ picture varies; ``pictures`` is how many it takes."""

    checkpoints: tuple[str, ...]
    strengths: tuple[float, ...]
    prompts: tuple[EvalPrompt, ...]
    seeds: int

    @property
    def pictures(self) -> int:
        """Product of all axes."""
        return len(self.checkpoints) * len(self.strengths) * len(self.prompts) * self.seeds


def draw_xyz(
    base: DiffusionBase,
    adapters: Mapping[str, str],
    prompts: Sequence[EvalPrompt],
    spec: EvaluateSpec,
    ctx: StageContext,
    *,
    chosen: str = "",
    limit: int = MOST_PICTURES,
) -> Image.Image:
    """Draw one or two prompts with each checkpoint, strength and seed.

    Args:
        base: with the adapters loaded; which one is active is undefined afterwards.
        adapters: label → adapter name, oldest checkpoint first.
        prompts: the first of them are drawn.
        spec: steps and guidance.
        ctx: where pictures are kept, and whether to stop.
        chosen: label of the checkpoint that was judged; it is marked and never left out.
        limit: most pictures to make; prompts, then checkpoints, then seeds are left out.

    Raises:
        Interrupted: the stage was asked to stop; pictures made so far are kept.
    """
    axes = fit_axes(tuple(adapters), tuple(prompts), chosen, limit)
    easel = Easel(base, spec, ctx)
    blocks = {}
    for row, prompt in enumerate(axes.prompts):
        seeded = [replace(prompt, seed=prompt.seed + 1000 * n) for n in range(axes.seeds)]
        for label in axes.checkpoints:
            for strength in axes.strengths:
                made = easel.draw(adapters[label], strength, spec.steps, seeded)
                for seed, image in enumerate(made):
                    blocks[row, seed, label, strength] = image
    return _sheet(axes, blocks, chosen, spec)


def fit_axes(
    labels: tuple[str, ...], prompts: tuple[EvalPrompt, ...], chosen: str, limit: int
) -> Axes:
    """As much of the axes as ``limit`` pictures hold: at least one row of strengths."""
    axes = Axes(labels, STRENGTHS, prompts[:PROMPTS], SEEDS)
    if axes.pictures > limit:
        axes = replace(axes, prompts=prompts[:1])
    if axes.pictures > limit:
        room = max(limit // (len(axes.strengths) * axes.seeds), 1)
        axes = replace(axes, checkpoints=_spread(labels, room, chosen))
    if axes.pictures > limit:
        axes = replace(axes, seeds=1)
    return axes


def _spread(labels: tuple[str, ...], room: int, chosen: str) -> tuple[str, ...]:
    """The chosen one, then the newest, the oldest, and those between, in their order."""
    preferred = sorted(
        range(len(labels)),
        key=lambda i: (labels[i] != chosen, i != len(labels) - 1, i != 0, i),
    )
    return tuple(labels[i] for i in sorted(preferred[:room]))


def _sheet(
    axes: Axes,
    blocks: Mapping[tuple[int, int, str, float], Image.Image],
    chosen: str,
    spec: EvaluateSpec,
) -> Image.Image:
    """Columns: strengths, seed by seed; rows: checkpoints, prompt by prompt."""
    step = CELL + GAP
    wide, high = len(axes.strengths) * step, len(axes.checkpoints) * step
    width = 2 * MARGIN + LABEL + axes.seeds * wide + (axes.seeds - 1) * MARGIN
    sheet = Image.new("RGB", (width, MARGIN + len(axes.prompts) * (HEAD + high + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(axes.prompts):
        top = MARGIN // 2 + row * (HEAD + high + GAP)
        write(pen, (MARGIN, top), prompt.text, 17, width - 2 * MARGIN, INK)
        for seed in range(axes.seeds):
            left = MARGIN + LABEL + seed * (wide + MARGIN)
            for column, strength in enumerate(axes.strengths):
                head = f"strength {strength:g}"
                head = f"seed {prompt.seed + 1000 * seed}, {head}" if column == 0 else head
                write(pen, (left + column * step, top + 30), head, 13, step, SOFT)
                for line, label in enumerate(axes.checkpoints):
                    image = blocks[row, seed, label, strength]
                    paste(sheet, image, left + column * step, top + HEAD + line * step)
        for line, label in enumerate(axes.checkpoints):
            y = top + HEAD + line * step + CELL // 2 - 10
            write(pen, (MARGIN, y), label, 15, LABEL - GAP, INK)
            if label == chosen:
                write(pen, (MARGIN, y + 20), "judged", 13, LABEL - GAP, SOFT)
    foot = f"{spec.steps} steps, guidance {spec.guidance:g}"
    write(pen, (MARGIN, sheet.height - 18), foot, 12, width - 2 * MARGIN, SOFT)
    return sheet


def _read(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (FileNotFoundError, UnidentifiedImageError, OSError):
        return None


def _write(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    image.save(part, format="PNG")
    part.replace(file)
