"""Letterbox bars: plain stripes beside a picture that reaches from edge to edge.

Only bars that come in pairs (above and below, or left and right) and end in a sharp line across
the whole picture are cropped. The empty ground around a drawing is none: its first line with ink
is ground for the most part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

TOLERANCE = 12  # of 255, in any channel: what a JPEG does to a plain bar
ACROSS = 0.9  # share of the first line beside a bar that must be unlike the bar
LEAST = 0.02  # of the side: thinner bars are a drawing's own edge
MOST = 0.7  # of the side, both bars together
SOLID = 0.02  # a middle with less ink than this is a stripe of a flag, not a picture


def crop_bars(image: Image.Image) -> Image.Image:
    """An RGB image without its letterbox bars; the same object where it has none."""
    if not _may_have_bars(image):
        return image
    pixels = np.asarray(image)
    top, bottom = _bars(pixels)
    left, right = _bars(pixels.transpose(1, 0, 2))
    if bool(top or bottom) == bool(left or right):
        return image  # none, or a frame all around, which may be the picture's own
    box = (left, top, image.width - right, image.height - bottom)
    middle = pixels[box[1] : box[3], box[0] : box[2]].reshape(-1, 3)
    ink = np.abs(middle.astype(np.int16) - np.median(middle, axis=0)).max(axis=1) > TOLERANCE
    return image.crop(box) if ink.mean() > SOLID else image


def _may_have_bars(image: Image.Image) -> bool:
    """Whether the two lines at opposite edges are plain; most pictures' are not."""
    width, height = image.size
    edges = (
        ((0, 0, width, 1), (0, height - 1, width, height)),
        ((0, 0, 1, height), (width - 1, 0, width, height)),
    )
    return any(all(_plain(image.crop(line)) for line in pair) for pair in edges)


def _plain(line: Image.Image) -> bool:
    levels = np.asarray(line.getextrema())
    return bool((levels[:, 1] - levels[:, 0]).max() <= 2 * TOLERANCE)


def _bars(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Lines of the bars before and after the picture along the first axis; 0, 0: no pair."""
    sides = (_bar(pixels), _bar(pixels[::-1]))
    length = len(pixels)
    if min(sides) < max(2, LEAST * length) or sum(sides) > MOST * length:
        return 0, 0
    return sides


def _bar(pixels: NDArray[np.uint8]) -> int:
    """How many lines from the start are plain, if a sharp line across ends them; else 0."""
    colour = pixels[0, 0].astype(np.int16)
    half = len(pixels) // 2
    for depth in range(half):
        unlike = np.abs(pixels[depth] - colour).max(axis=1) > TOLERANCE
        if unlike.any():
            return depth if unlike.mean() >= ACROSS else 0
    return 0
