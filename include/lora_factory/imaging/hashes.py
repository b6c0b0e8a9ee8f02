"""Names and fingerprints of images: exact (sha256) and perceptual.

The perceptual hash is imagehash's difference hash of 16×16 bits. On 64 px line icons it is
the steadiest of the library's hashes: of 256 bits a JPEG at quality 60 flips at most 19
(coloured icons: 44), half to triple size at most 24, while the closest two different icons
of 150 differ in 12 and the next in 26. So bits alone convict nobody: it sees no colour, and
simple signs in the same frame are close. :class:`Fingerprints` adds a 16×16 RGB thumbnail;
different icons were never closer than 0.065 RMS in it, a JPEG at quality 25 never further
than 0.051.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagehash
import numpy as np
from PIL import Image

from lora_factory.imaging.borders import crop_bars
from lora_factory.imaging.quality import MEASURED_SIDE, reduced

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 16
BITS = SIDE * SIDE


def sha256_hex(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def perceptual_hash(image: Image.Image) -> str:
    """Difference hash of 256 bits as 64 hex digits."""
    return str(imagehash.dhash(image, hash_size=SIDE))


def picture_hash(image: Image.Image) -> str:
    """:func:`perceptual_hash` of an RGB picture of any size as all stages compare them.

    Without letterbox bars and reduced to 256 pixels: what is measured of a picture is measured
    of that, once.
    """
    return perceptual_hash(reduced(crop_bars(image), MEASURED_SIDE))


def hamming(first: str, second: str) -> int:
    """Bits in which two perceptual hashes differ, 0 to 256.

    Raises:
        ValueError: they are not hex digits of one length.
    """
    if len(first) != len(second):
        msg = f"hashes of {len(first)} and {len(second)} digits can't be compared"
        raise ValueError(msg)
    return (int(first, 16) ^ int(second, 16)).bit_count()


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """16×16 RGB averages, flattened to 768 values of 0 to 255."""
    plain = image if image.mode == "RGB" else image.convert("RGB")
    small = plain.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).ravel()


@dataclass(frozen=True)
class Fingerprints:
    """Perceptual fingerprints of n images, 800 bytes each.

    ``bits``: n×32 uint8, the hash's 256 bits. ``thumbs``: n×768 uint8.
    """

    bits: NDArray[np.uint8]
    thumbs: NDArray[np.uint8]

    @classmethod
    def of(cls, images: Sequence[Image.Image]) -> Fingerprints:
        """Fingerprints of RGB images of any size."""
        return cls.stack([perceptual_hash(i) for i in images], [thumbnail(i) for i in images])

    @classmethod
    def stack(
        cls, hashes: Sequence[str], thumbs: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
    ) -> Fingerprints:
        """From hashes and thumbnails measured before."""
        raw = np.frombuffer(b"".join(bytes.fromhex(h) for h in hashes), dtype=np.uint8)
        rows = np.asarray(thumbs, dtype=np.uint8).reshape(-1, 3 * BITS)
        return cls(raw.reshape(-1, BITS // 8), rows)

    def __len__(self) -> int:
        return len(self.bits)

    def hamming_to(self, rows: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.float32]:
        """Bits that differ, for each of ``rows`` (r) and each of ``others`` (o): r×o."""
        signs, against = (
            np.unpackbits(self.bits[some], axis=1).astype(np.float32) * 2 - 1
            for some in (rows, others)
        )
        return np.asarray((BITS - signs @ against.T) / 2, dtype=np.float32)

    def hamming(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bits that differ, pair by pair (k indices each), 0 to 256."""
        apart = np.bitwise_count(self.bits[first] ^ self.bits[second])
        return np.asarray(apart.sum(axis=1, dtype=np.int64))

    def rms(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
        """Root mean square difference of thumbnails, pair by pair (k indices each), in [0, 1]."""
        gaps = self.thumbs[first].astype(np.float32) - self.thumbs[second]
        return np.asarray(np.sqrt(np.mean(gaps**2, axis=1)) / 255, dtype=np.float32)

    def small(self) -> NDArray[np.float32]:
        """8×8 RGB averages of the thumbnails, n×192 in [0, 1].

        Averaging only lessens differences: two rows are at most ``rms · √192`` apart.
        """
        cells = self.thumbs.reshape(-1, SIDE // 2, 2, SIDE // 2, 2, 3)
        means = cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(self), 3 * BITS // 4)
        return np.asarray(means / np.float32(255), dtype=np.float32)
