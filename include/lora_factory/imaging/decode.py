"""Hostile bytes → a plain RGB picture, or a reason why not.

Pillow is asked for a short list of formats only, so that bytes never reach its readers for
EPS, PDF and the like, whatever the server called them. Size is checked from the header,
before a pixel is decoded.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

log = logging.getLogger(__name__)

Reason = Literal["not_an_image", "corrupt", "too_many_pixels", "animated"]
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
ANIMATED = frozenset({"PNG", "WEBP", "GIF"})
MAX_PIXELS = 50_000_000
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

# Pillow only warns between one and two times its own limit. A filter for the process, not a
# catch_warnings block, because the crawler decodes in threads and that block isn't safe there.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageRejected(ValueError):
    """These bytes give no usable picture; ``reason`` is the code for the audit."""

    def __init__(self, *, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail


def sniff(data: bytes) -> str | None:
    """File extension by the first bytes: png, jpg, webp, gif, bmp; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    return "bmp" if data.startswith(b"BM") else None


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, ground: str = "white") -> Image.Image:
    """Decode to a fully loaded RGB image without metadata.

    EXIF orientation is applied, an ICC profile is converted to sRGB, transparency is laid on
    ``ground``.

    Args:
        data: the file's bytes.
        max_pixels: width × height that is still decoded; never above Pillow's own 89 million.
        ground: colour behind what is transparent, a name or ``#rrggbb``.

    Raises:
        ImageRejected: ``not_an_image`` (no allowed format), ``too_many_pixels``,
            ``animated`` (more than one frame), ``corrupt`` (truncated or damaged).
    """
    if sniff(data) is None:
        raise ImageRejected(reason="not_an_image", detail="no allowed format by its first bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, max_pixels)
            image.load()
            return _plain(image, ground)
    except ImageRejected:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise ImageRejected(reason="too_many_pixels", detail=str(err)) from err
    except Exception as err:
        # The one boundary: Pillow's readers raise nearly every built-in error on damaged
        # bytes (OSError, SyntaxError, struct.error, IndexError, …) and all mean the same.
        raise ImageRejected(reason="corrupt", detail=f"{type(err).__name__}: {err}"[:200]) from err


def _check_header(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRejected(reason="too_many_pixels", detail=f"{width}×{height} > {max_pixels}")
    # A phone's JPEG may hold several pictures (MPO); the first one is the photo.
    # is_animated looks for a second frame only; n_frames of a GIF walks through all of them.
    if image.format in ANIMATED and getattr(image, "is_animated", False):
        raise ImageRejected(reason="animated", detail="more than one frame")


def _plain(image: Image.Image, ground: str) -> Image.Image:
    """Any mode → RGB: rotated, sRGB, on a ground, nothing of the metadata left."""
    profile = image.info.get("icc_profile")
    _turn_upright(image)
    alpha = None
    if image.mode.startswith("I;16"):
        image, alpha = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in {"RGB", "L", "CMYK"}:
        image = image.convert("RGB")
    image = _to_srgb(image, profile) if profile else image
    plain = image.convert("RGB")
    plain.info = {}
    if alpha is None:
        return plain
    return Image.composite(plain, Image.new("RGB", plain.size, ground), alpha)


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey → L by its upper bytes, and alpha where the file names a transparent level.

    Pillow's own conversions clip at 255, which turns all but the darkest levels white.
    """
    levels = np.asarray(image)
    key = image.info.get("transparency")
    alpha = None
    if isinstance(key, int):
        alpha = Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
    return Image.fromarray((levels >> 8).astype(np.uint8)), alpha


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, OverflowError) as err:
        log.debug("EXIF left unread: %s", err)  # broken metadata doesn't make a picture useless


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        done = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as err:
        log.debug("ICC profile left unread: %s", err)  # damaged, or not for this mode
        return image
    return image if done is None else done
