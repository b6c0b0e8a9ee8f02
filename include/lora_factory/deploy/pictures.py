"""What a smoke test asks of a picture: that it is one, and not the base's own."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from lora_factory.contracts.serving import GenerateResponse
from lora_factory.deploy.target import Smoke
from lora_factory.errors import ReleaseError
from lora_factory.guard.provenance.marks import WATERMARK, marks_of
from lora_factory.imaging.decode import ImageRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_CONTRAST = 1.0  # a black picture, or one of a single colour, has less
MIN_DIFFERENCE = 0.1  # rounding alone moves a picture by less
MARKED_DIFFERENCE = 5.0  # the same of two watermarks, whose ids differ: up to 4


def picture(drawn: GenerateResponse) -> Image:
    """The picture of an answer.

    Raises:
        ReleaseError: there is none.
    """
    try:
        return decode(base64.b64decode(drawn.image, validate=True))
    except (binascii.Error, ImageRejected) as err:
        msg = f"smoke test: no picture in the answer: {err}"
        raise ReleaseError(msg) from err


def compare(image: Image, base: Image, seconds: float) -> Smoke:
    """A version's picture beside the base's, of the same prompt and seed.

    Raises:
        ReleaseError: it is blank, of another size, or the base's own.
    """
    import numpy as np

    if image.size != base.size:
        msg = f"smoke test: a picture of {image.size} pixels, the base draws {base.size}"
        raise ReleaseError(msg)
    pixels, before = np.asarray(image, float), np.asarray(base, float)
    contrast = float(pixels.std())
    difference = float(np.abs(pixels - before).mean())
    if contrast < MIN_CONTRAST:
        msg = f"smoke test: a blank picture (contrast {contrast:.2f} of 128)"
        raise ReleaseError(msg)
    marked = WATERMARK in marks_of(image.size)
    if difference < (MARKED_DIFFERENCE if marked else MIN_DIFFERENCE):
        msg = f"smoke test: the base's own picture (difference {difference:.3f} of 255)"
        raise ReleaseError(msg)
    return Smoke(seconds=seconds, contrast=contrast, difference=difference)
