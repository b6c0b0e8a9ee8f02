"""Imperceptible watermark that survives JPEG, scaling and cropping: presence and a 24-bit id.

The scheme is JAWS (Kalker, Depovere, Haitsma, Maes: "A video watermarking system for broadcast
monitoring", SPIE 3657, 1999): a keyed noise tile of 128 × 128 pixels is added to the luma all
over the picture, stronger where texture hides it. The detector folds the picture at the tile's
period and correlates by phase only, so that any cut-out and shift is found by one FFT; other
sizes are found by trying periods. Three more tiles carry the id by how far each is shifted
against the first, one byte each.

Not survived: rotation, mirroring, reduction below 0.4×, unequal scaling of width and height,
and anyone who knows the key. ``tests/bench/guard/watermark.py`` measures the rest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

if TYPE_CHECKING:
    from PIL.Image import Image

Plane = NDArray[np.float32]
MIN_SIDE = 256  # pixels; smaller pictures hold too few tiles to outlive a reduction
PUBLIC_KEY = b"lora-factory public watermark, 1"  # anyone may detect; see Settings.watermark_key
TILE = 128  # pixels
# Cycles a pixel: below, the eye sees it and pictures have most of their energy; above, a
# reduction to 0.5× or JPEG takes it away.
BAND = (0.06, 0.22)
HARMONICS = int(BAND[1] * TILE)
SHARES = (0.46, 0.18, 0.18, 0.18)  # of the power: presence, then the id's three bytes
GRID = 8  # pixels between two shifts: 16 × 16 places are one byte
ID_DIGITS = 6
# Strength, grey levels: on flat ground, per grey level of texture, at most, and what a
# saturated ground gets on top, which shows only half of the noise.
FLAT, TEXTURE, STRONGEST, SATURATED = 1.0, 0.09, 3.5, 1.5
FULL, SMALL_GAIN = 512, 1.8  # pixels; the texture of smaller pictures gets more, at most this
# The correlation surface has unit variance and is normal where there is no mark (its values are
# sums of some 2000 random phases). A search looks at 350 periods × 16384 shifts: by the union
# bound a false alarm has probability ≤ 350 · 16384 · Q(7) = 7e-6 a picture.
PRESENT = 7.0
READABLE = 5.0  # a byte's surface has 256 places: another one is that high in 7e-5 of pictures
LARGEST = 1024  # pixels; of larger pictures the middle is enough
SEARCHED = 512
CERTAIN = 12.0  # the search ends here
LIKELY = (1.0, 0.5, 0.75, 2.0)
STEP = 0.005  # of the period's logarithm: 1.3 pixels of drift at the edge of 512


@dataclass(frozen=True)
class Detection:
    """What was found: ``score`` is the correlation peak in standard deviations."""

    present: bool
    score: float
    scale: float
    ident: str | None

    @property
    def detail(self) -> str:
        """One line for people."""
        if not self.present:
            return f"score {self.score:.1f} of {PRESENT:g} needed"
        ident = self.ident or "not readable"
        return f"id {ident}, score {self.score:.1f}, at {self.scale:.2f}× its first size"


class Watermark:
    """Embeds and detects under one key.

    Args:
        key: who knows it can detect, remove and forge the mark.
    """

    def __init__(self, key: bytes = PUBLIC_KEY) -> None:
        self._tiles = [_tile(key, index) for index in range(len(SHARES))]
        self._spectra = [_harmonics(tile) for tile in self._tiles]
        self._band = _band(np.arange(-HARMONICS, HARMONICS + 1), np.arange(HARMONICS + 1))

    def embed(self, image: Image, ident: str) -> Image:
        """The marked picture.

        Args:
            image: RGB, both sides at least ``MIN_SIDE`` pixels.
            ident: 6 hex digits.
        """
        from PIL import Image as Pictures

        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        height, width = pixels.shape[:2]
        if min(height, width) < MIN_SIDE:
            msg = f"a picture of {width}×{height} pixels can't hold the watermark"
            raise ValueError(msg)
        pattern = self._pattern(bytes.fromhex(ident))
        tiled = np.tile(pattern, (height // TILE + 1, width // TILE + 1))[:height, :width]
        marked = pixels + (_strength(_luma(pixels)) * tiled)[..., None]
        return Pictures.fromarray(np.clip(np.rint(marked), 0, 255).astype(np.uint8))

    def detect(self, image: Image) -> Detection:
        """Look for the mark; one picture takes some 0.02 s with it and 2 s without."""
        plane = _whitened(_luma(_middle(np.asarray(image.convert("RGB"), dtype=np.float32))))
        height, width = plane.shape
        top, left = max(0, (height - SEARCHED) // 2), max(0, (width - SEARCHED) // 2)
        part = plane[top : top + SEARCHED, left : left + SEARCHED]
        scale, best = 1.0, 0.0
        for candidate in _scales():
            score = float(self._surface(_fold(part, candidate), 0).max())
            if score > best:
                scale, best = candidate, score
            if best >= CERTAIN:
                break
        around = [scale, *(scale * (1 + shift) for shift in (-0.003, 0.003))]
        return max((self._read(plane, near) for near in around), key=lambda found: found.score)

    def _pattern(self, ident: bytes) -> Plane:
        parts = [math.sqrt(SHARES[0]) * self._tiles[0]]
        for share, tile, byte in zip(SHARES[1:], self._tiles[1:], ident, strict=True):
            shift = (byte // 16 * GRID, byte % 16 * GRID)
            parts.append(math.sqrt(share) * np.roll(tile, shift, (0, 1)))
        return np.asarray(np.sum(parts, axis=0), dtype=np.float32)

    def _read(self, plane: Plane, scale: float) -> Detection:
        folded = _fold(plane, scale)
        surface = self._surface(folded, 0)
        score = float(surface.max())
        row, column = np.unravel_index(int(surface.argmax()), surface.shape)
        ident, readable = "", True
        for index in range(1, len(SHARES)):
            aligned = np.roll(self._surface(folded, index), (-int(row), -int(column)), (0, 1))
            places = aligned[::GRID, ::GRID]
            ident += f"{int(places.argmax()):02x}"
            readable = readable and float(places.max()) >= READABLE
        present = score >= PRESENT
        return Detection(present, score, scale, ident if present and readable else None)

    def _surface(self, folded: NDArray[Any], index: int) -> Plane:
        """Phase-only correlation with one tile at every shift; unit variance."""
        product = folded * self._spectra[index]
        phases = np.where(self._band, product / np.maximum(np.abs(product), 1e-12), 0)
        full = np.zeros((TILE, TILE // 2 + 1), dtype=np.complex64)
        full[np.arange(-HARMONICS, HARMONICS + 1) % TILE, : HARMONICS + 1] = phases
        surface = fft.irfft2(full, (TILE, TILE))
        deviation = float(surface.std())
        return np.asarray(surface / deviation if deviation > 0 else surface, dtype=np.float32)


def _scales() -> Iterator[float]:
    yield from LIKELY
    for index in range(int(math.log(2.1 / 0.4) / STEP) + 1):
        yield 0.4 * math.exp(index * STEP)


def _band(rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
    radius = np.hypot(rows[:, None], columns[None, :]) / TILE
    return np.asarray((radius >= BAND[0]) & (radius <= BAND[1]))


def _tile(key: bytes, index: int) -> Plane:
    """Noise of unit variance with a flat spectrum inside ``BAND`` and nothing outside."""
    digest = hashlib.sha256(b"lora-factory/watermark/1/%d/" % index + key).digest()
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    spectrum = np.fft.fft2(noise.standard_normal((TILE, TILE)))
    frequencies = np.fft.fftfreq(TILE) * TILE
    flat = np.where(_band(frequencies, frequencies), spectrum / np.abs(spectrum), 0)
    tile = np.fft.ifft2(flat).real
    return np.asarray(tile / tile.std(), dtype=np.float32)


def _harmonics(tile: Plane) -> NDArray[Any]:
    """Conjugate spectrum, laid out as :func:`_fold` lays it out."""
    rows = np.arange(-HARMONICS, HARMONICS + 1) % TILE
    return np.conj(np.fft.rfft2(tile)[rows, : HARMONICS + 1])


def _fold(plane: Plane, scale: float) -> NDArray[Any]:
    """Fourier coefficients at the harmonics of the period ``TILE · scale``.

    The same as cutting the plane into tiles of that (broken) size, adding them up, and
    transforming the sum.
    """
    height, width = plane.shape
    turn = -2j * np.pi / (TILE * scale)
    rows = np.exp(turn * np.outer(np.arange(-HARMONICS, HARMONICS + 1), np.arange(height) + 0.5))
    columns = np.exp(turn * np.outer(np.arange(width) + 0.5, np.arange(HARMONICS + 1)))
    rows, columns = rows.astype(np.complex64), columns.astype(np.complex64)
    return np.asarray(rows @ (plane @ columns.real + 1j * (plane @ columns.imag)))


def _luma(pixels: Plane) -> Plane:
    """ITU-R BT.601, as JPEG does; JPEG keeps only half of the colours' resolution."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def _middle(pixels: Plane) -> Plane:
    height, width = pixels.shape[:2]
    top, left = max(0, (height - LARGEST) // 2), max(0, (width - LARGEST) // 2)
    return pixels[top : top + LARGEST, left : left + LARGEST]


def _strength(luma: Plane) -> Plane:
    """Grey levels of noise that each place hides, height × width."""
    detail = luma - ndimage.gaussian_filter(luma, 2)
    texture = np.sqrt(ndimage.gaussian_filter(detail * detail, 3))
    # The least around: beside an edge lies flat ground, where noise would be seen.
    texture = ndimage.minimum_filter(texture, 9)
    # A picture of half the side has a quarter of the pixels to find the mark by.
    gain = min(max(FULL / math.sqrt(luma.size), 1.0), SMALL_GAIN)
    strength = np.minimum(FLAT + gain * TEXTURE * texture, math.sqrt(gain) * STRONGEST)
    saturated = (luma > 252) | (luma < 3)
    return np.asarray(np.where(saturated, SATURATED * strength, strength), dtype=np.float32)


def _whitened(luma: Plane) -> Plane:
    """The picture with its own content held down: high-passed, of even local contrast."""
    detail = luma - ndimage.gaussian_filter(luma, 4)
    contrast = np.sqrt(ndimage.gaussian_filter(detail * detail, 6))
    return np.asarray(np.clip(detail / (contrast + 1.0), -2.5, 2.5), dtype=np.float32)
