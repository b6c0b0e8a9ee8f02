"""Coloured signs with names the embedded scorer reads well: circles, squares, hearts."""

from __future__ import annotations

import math

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


def striped_signs() -> dict[str, Image.Image]:
    """Name → RGB picture of 64 px on blue-striped sand, a style no base draws; 40 of them."""
    found = {}
    for colour, fill in COLOURS.items():
        for shape in ("circle", "square", "heart", "star", "triangle"):
            image = Image.new("RGB", (256, 256), "#e8d3a2")
            draw = ImageDraw.Draw(image)
            for left in range(-256, 256, 32):
                draw.line((left, 0, left + 256, 256), fill="#7fd0e8", width=12)
            _shape(draw, shape, fill)
            found[f"{colour} {shape}"] = image.resize((64, 64), Image.Resampling.LANCZOS)
    return found


def _shape(draw: ImageDraw.ImageDraw, shape: str, fill: str) -> None:
    if shape == "circle":
        draw.ellipse((40, 40, 216, 216), fill=fill)
    elif shape == "square":
        draw.rectangle((46, 46, 210, 210), fill=fill)
    elif shape == "triangle":
        draw.polygon([(128, 36), (222, 210), (34, 210)], fill=fill)
    elif shape == "star":
        turns = [(math.pi * point / 5, 42 if point % 2 else 100) for point in range(10)]
        corners = [(128 + far * math.sin(a), 132 - far * math.cos(a)) for a, far in turns]
        draw.polygon(corners, fill=fill)
    else:
        draw.ellipse((36, 44, 138, 146), fill=fill)
        draw.ellipse((118, 44, 220, 146), fill=fill)
        draw.polygon([(44, 124), (212, 124), (128, 220)], fill=fill)
