"""The XYZ picture: checkpoint × strength × seed, so that a person sees how a LoRA behaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from lora_factory.evaluate.grid import CELL, GAP, INK, MARGIN, PAPER, SOFT, paste, write

if TYPE_CHECKING:
    from lora_factory.evaluate.pairs import Adapter, Painter
    from lora_factory.evaluate.prompts import EvalPrompt

STRENGTHS = (0.7, 1.0, 1.3)
SEEDS = 2
NEXT_SEED = 1000
"""Distance of the second seed from a prompt's own."""
PROMPTS = 2
LABEL = 96
"""Width of the checkpoints' names, pixels."""
HEAD = 74
"""Height of a heading, pixels."""


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
    painter: Painter,
    adapters: Mapping[str, Adapter],
    prompts: Sequence[EvalPrompt],
    *,
    chosen: str = "",
    steps: int | None = None,
) -> Image.Image:
    """Draw one or two prompts with each checkpoint, strength and seed.

    Args:
        painter: of their base; it keeps what it paints, so that a retry goes on. Its spec says
            how many pictures at most: prompts, then checkpoints, then seeds are left out.
        adapters: label → checkpoint, loaded, the oldest first.
        prompts: the first of them are drawn.
        chosen: label of the checkpoint that was judged; it is marked and never left out.
        steps: denoising steps; None: the spec's.

    Raises:
        Interrupted: the stage was asked to stop; pictures made so far are kept.
    """
    steps = steps or painter.spec.steps
    axes = fit_axes(tuple(adapters), tuple(prompts), chosen, painter.spec.xyz_pictures)
    seeded = [
        replace(prompt, seed=prompt.seed + NEXT_SEED * turn)
        for prompt in axes.prompts
        for turn in range(axes.seeds)
    ]
    cells = {
        (label, strength): painter.paint(
            seeded,
            adapters[label],
            strength=strength,
            steps=steps,
            what=f"XYZ, {label} at {strength:g}",
        )
        for label in axes.checkpoints
        for strength in axes.strengths
    }
    return _sheet(axes, cells, chosen, f"{steps} steps, guidance {painter.spec.guidance:g}")


def label_of(file: str) -> str:
    """A LoRA artifact's file in a word or two: ``checkpoints/step-000080…`` is step 80."""
    step = re.fullmatch(r"checkpoints/step-(\d+)\.safetensors", file)
    if step:
        return f"step {int(step[1])}"
    return "final" if file == "lora.safetensors" else file.removesuffix(".safetensors")


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
    cells: Mapping[tuple[str, float], Sequence[Image.Image]],
    chosen: str,
    foot: str,
) -> Image.Image:
    """Columns: strengths, seed by seed; rows: checkpoints, prompt by prompt.

    ``cells`` hold their pictures prompt by prompt, seed by seed.
    """
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
            write(pen, (left, top + 30), f"seed {prompt.seed + NEXT_SEED * seed}", 13, wide, INK)
            for column, strength in enumerate(axes.strengths):
                head = f"strength {strength:g}"
                write(pen, (left + column * step, top + 50), head, 13, step, SOFT)
                for line, label in enumerate(axes.checkpoints):
                    image = cells[label, strength][row * axes.seeds + seed]
                    paste(sheet, image, left + column * step, top + HEAD + line * step)
        for line, label in enumerate(axes.checkpoints):
            y = top + HEAD + line * step + CELL // 2 - 10
            write(pen, (MARGIN, y), label, 15, LABEL - GAP, INK)
            if label == chosen:
                write(pen, (MARGIN, y + 20), "judged", 13, LABEL - GAP, SOFT)
    write(pen, (MARGIN, sheet.height - 18), foot, 12, width - 2 * MARGIN, SOFT)
    return sheet
