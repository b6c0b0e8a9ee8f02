"""Is a picture fit to learn from? Plain measures, each with its unit, and limits for them.

The limits follow cleanvision's checks (dark, light, blurry, odd aspect; low information by the
share of ink), restated so that a black line icon on white passes: there, half the pixels are pure
white and the brightest percentile says nothing. Measured on 300 icons of 64 px and two photographs:
sharpness 0.47–0.96, blurred by σ = 3 px 0.09–0.17 (photographs 0.07–0.10), ink 0.12 or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURED_SIDE = 256  # pixels; larger images are reduced first: nobody trains at 24 megapixels
MIN_SHARPNESS = 0.08
MIN_INK = 0.005
MAX_DARK = 0.2
MIN_LIGHT = 0.9
INK_STEP = 0.05  # below 1 − MIN_LIGHT: a faint drawing is too light, not uniform


@dataclass(frozen=True)
class Quality:
    """Measures of one RGB image.

    Attributes:
        side: shorter side, pixels.
        aspect: longer over shorter side, ≥ 1.
        brightest: 99.5th percentile of the pixels' largest channel, in [0, 1].
        darkest: 0.5th percentile of the pixels' smallest channel, in [0, 1]; pure yellow
            is dark in blue, so a yellow circle on white is not "too light".
        ink: share of pixels further than 0.05 from the median colour in some channel.
        sharpness: steepest step between neighbours (99.8th percentile) over the contrast, in
            [0, 1] or a little more; 1: edges one pixel wide, ≈ 0.4/σ after a blur of σ pixels.
    """

    side: int
    aspect: float
    brightest: float
    darkest: float
    ink: float
    sharpness: float

    def problem(self, *, min_side: int, max_aspect: float) -> str | None:
        """Reason code of the first limit broken, or None: the picture is healthy.

        ``too_small``, ``extreme_aspect``, ``too_dark``, ``too_light``, ``uniform``,
        ``blurred``.
        """
        checks = (
            ("too_small", self.side < min_side),
            ("extreme_aspect", self.aspect > max_aspect),
            ("uniform", self.ink < MIN_INK),
            ("too_dark", self.brightest < MAX_DARK),
            ("too_light", self.darkest > MIN_LIGHT),
            ("blurred", self.sharpness < MIN_SHARPNESS),
        )
        return next((reason for reason, broken in checks if broken), None)


def measure(
    image: Image.Image, small: Image.Image | None = None, grey: Image.Image | None = None
) -> Quality:
    """Measure an RGB image of any size; larger ones as they look at 256 pixels.

    By histograms of 256 levels: several times quicker than sorting pixels.

    Args:
        image: RGB.
        small: ``reduced(image, MEASURED_SIDE)``, where the caller has it already.
        grey: ``small.convert("L")``, where the caller has it.
    """
    small = reduced(image, MEASURED_SIDE) if small is None else small
    some = small
    if min(small.size) >= MEASURED_SIDE:
        # Of as many pixels every fourth says the same of levels; steps need them all.
        some = small.resize((small.width // 2, small.height // 2), Image.Resampling.NEAREST)
    bands = some.split()
    brightest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    darkest = ImageChops.darker(ImageChops.darker(bands[0], bands[1]), bands[2])
    apart = [
        band.point([abs(level - middle) for level in range(256)])
        for band, middle in ((band, _level(band, 0.5)) for band in bands)
    ]
    gaps = ImageChops.lighter(ImageChops.lighter(apart[0], apart[1]), apart[2]).histogram()
    return Quality(
        side=min(image.size),
        aspect=max(image.size) / min(image.size),
        brightest=_level(brightest, 0.995) / 255,
        darkest=_level(darkest, 0.005) / 255,
        ink=sum(gaps[int(INK_STEP * 255) + 1 :]) / sum(gaps),
        sharpness=sharpness(small if grey is None else grey),
    )


def sharpness(image: Image.Image) -> float:
    """Steepest step between neighbouring pixels relative to the picture's contrast."""
    grey = reduced(image, MEASURED_SIDE).convert("L")
    width, height = grey.size
    steps = np.zeros(256, dtype=np.int64)
    for x, y in ((1, 0), (0, 1)):
        if width > x and height > y:
            here, there = grey.crop((0, 0, width - x, height - y)), grey.crop((x, y, width, height))
            steps += np.asarray(ImageChops.difference(here, there).histogram())
    if not steps.sum():
        return 0.0
    contrast = (_level(grey, 0.995) - _level(grey, 0.005)) / 255
    # A picture without contrast has no edges to judge; `uniform` speaks for it.
    return _quantile(steps, 0.998) / 255 / max(contrast, 0.02)


def _level(band: Image.Image, share: float) -> int:
    """The level, 0 to 255, that ``share`` of a band's pixels don't exceed."""
    return _quantile(np.asarray(band.histogram()), share)


def _quantile(counts: NDArray[np.int64], share: float) -> int:
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))


def reduced(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side at most ``side`` pixels, by averaging."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(1, round(length * side / shorter)) for length in image.size)
    # By whole pixels first: an exact average of large pictures is slow and no better.
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
