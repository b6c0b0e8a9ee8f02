"""Coloured signs with names the embedded scorer reads well: circles, squares, hearts."""

from __future__ import annotations

from PIL import Image, ImageDraw

COLOURS = {
    "red": "#dd2e44",
    "orange": "#f4900c",
    "yellow": "#fdcb58",
    "green": "#78b159",
    "blue": "#3b88e9",
    "purple": "#a071d0",
    "brown": "#b06c49",
    "black": "#292f33",
}


def signs() -> dict[str, Image.Image]:
    """Name → RGB picture of 64 px on white; 24 of them."""
    found = {}
    for colour, fill in COLOURS.items():
        for shape in ("circle", "square", "heart"):
            image = Image.new("RGB", (256, 256), "white")
            draw = ImageDraw.Draw(image)
            if shape == "circle":
                draw.ellipse((24, 24, 232, 232), fill=fill)
            elif shape == "square":
                draw.rectangle((28, 28, 228, 228), fill=fill)
            else:
                draw.ellipse((20, 30, 132, 142), fill=fill)
                draw.ellipse((124, 30, 236, 142), fill=fill)
                draw.polygon([(30, 118), (226, 118), (128, 232)], fill=fill)
            found[f"{colour} {shape}"] = image.resize((64, 64), Image.Resampling.LANCZOS)
    return found
