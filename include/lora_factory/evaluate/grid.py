"""The picture grid: base beside LoRA beside the nearest training image, same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

CELL = 128
"""Side of a picture in the grid, pixels."""
BLOCKS = 3
"""Prompts side by side."""
MAX_PROMPTS = 24
COLUMNS = ("base", "LoRA", "nearest original")
GAP = 6
MARGIN = 24
CAPTION = 24
HEADER = 26
TITLE = 64
INK, SOFT, LINE, PAPER = "#16181d", "#5b6270", "#d5d9e0", "#ffffff"


@dataclass(frozen=True)
class GridRow:
    """One prompt's pictures; ``caption`` stands above them, ``note`` below (page only)."""

    caption: str
    base: Image.Image
    lora: Image.Image
    nearest: Image.Image | None = None
    note: str = ""


def draw_grid(
    rows: Sequence[GridRow],
    title: str,
    subtitle: str,
    columns: Sequence[str] = COLUMNS,
) -> Image.Image:
    """Draw up to ``MAX_PROMPTS`` rows, ``BLOCKS`` prompts side by side, under a heading.

    ``columns`` names the three pictures of a row.
    """
    rows = rows[:MAX_PROMPTS]
    block = 3 * CELL + 2 * GAP
    lines = max(-(-len(rows) // BLOCKS), 1)
    width = 2 * MARGIN + BLOCKS * block + (BLOCKS - 1) * MARGIN
    step = CAPTION + CELL + 2 * GAP
    top = MARGIN + TITLE
    sheet = Image.new("RGB", (width, top + HEADER + lines * step + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, MARGIN - 6), title, 26, width - 2 * MARGIN, INK)
    write(pen, (MARGIN, MARGIN + 30), subtitle, 15, width - 2 * MARGIN, SOFT)
    for number in range(min(BLOCKS, len(rows))):
        left = MARGIN + number * (block + MARGIN)
        for column, name in enumerate(columns):
            write(pen, (left + column * (CELL + GAP), top), name, 13, CELL, SOFT)
    for number, row in enumerate(rows):
        line, place = divmod(number, BLOCKS)
        left = MARGIN + place * (block + MARGIN)
        y = top + HEADER + line * step
        write(pen, (left, y + 3), row.caption, 15, block, INK)
        for column, image in enumerate((row.base, row.lora, row.nearest)):
            if image is not None:
                paste(sheet, image, left + column * (CELL + GAP), y + CAPTION)
    return sheet


def draw_notice(title: str, subtitle: str) -> Image.Image:
    """A heading alone, where there are no pictures to show."""
    return draw_grid([], title, subtitle)


def paste(sheet: Image.Image, image: Image.Image, x: int, y: int) -> None:
    """Put a picture into the framed square cell at (x, y), ``CELL`` pixels wide."""
    sheet.paste(_fit(image), (x, y))
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + CELL, y + CELL), outline=LINE)


def _fit(image: Image.Image) -> Image.Image:
    """A square cell: whole pixels where a small picture fits a whole number of times."""
    side = max(image.size)
    scale = CELL / side
    method = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.LANCZOS
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(
        image.convert("RGB").resize(size, method), ((CELL - size[0]) // 2, (CELL - size[1]) // 2)
    )
    return cell


def write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, room: int, colour: str
) -> None:
    """One line of text, cut with an ellipsis to ``room`` pixels; hostile text is just glyphs."""
    font = ImageFont.load_default(size=size)
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:400]).split())
    if _length(font, line) > room:
        while line and _length(font, line + "…") > room:
            line = line[:-1]
        line += "…"
    pen.text(place, line, fill=colour, font=font)


def _length(font: FreeTypeFont | BitmapFont, line: str) -> float:
    return float(font.getlength(line))
