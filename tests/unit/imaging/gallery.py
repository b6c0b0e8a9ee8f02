"""The demo's icons, decoded once a process."""

from __future__ import annotations

import functools
from collections.abc import Callable

from PIL import Image, ImageDraw

from lora_factory.imaging.decode import decode
from lora_factory.models.profiles import PACKAGE


@functools.cache
def gallery() -> dict[str, Image.Image]:
    """Name → RGB icon of 64 px; black lines on white."""
    folder = PACKAGE / "demo" / "gallery" / "icons"
    return {file.stem: decode(file.read_bytes()) for file in sorted(folder.glob("*.png"))}


def coloured(size: int = 64) -> list[Image.Image]:
    """Simple coloured signs, all in the same frame: hard for a hash that sees no colour."""
    shapes: list[Callable[[ImageDraw.ImageDraw, str], None]] = [
        lambda draw, fill: draw.ellipse((12, 12, 52, 52), fill=fill),
        lambda draw, fill: draw.rectangle((14, 14, 50, 50), fill=fill),
        lambda draw, fill: draw.polygon([(32, 10), (54, 52), (10, 52)], fill=fill),
        lambda draw, fill: draw.ellipse((8, 22, 56, 42), fill=fill),
    ]
    images = []
    for shape in shapes:
        for fill in ("red", "gold", "green", "royalblue", "purple", "black"):
            image = Image.new("RGB", (64, 64), "white")
            shape(ImageDraw.Draw(image), fill)
            images.append(image.resize((size, size), Image.Resampling.LANCZOS))
    return images
