"""Copy detection: does a generated image repeat a training image, mirrored or not?

Two views are compared: embeddings (cosine) and perceptual hashes (Hamming distance of 64
bits). Fixed cuts are wrong for LoRAs, whose images are meant to resemble the training set
(real photos of one subject average a CLIP cosine of 0.885, DreamBooth's table), so the cuts
are calibrated on originals: on how close real images that are *not* copies come to the
training set (held-out images against it, and each training image against the others).

An image counts as a copy of a training image when one view is convinced (closer than 99% of
originals come) and the other agrees (closer than half of them). So at most 2% of originals
are taken for copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.models.roles import Vectors

    Hashes = NDArray[np.bool_]
    Bits = NDArray[np.int64]

CONVINCED, AGREES = 99.0, 50.0
"""Percentiles of the originals' closeness."""
CEILING = 0.999
"""Cosine that is as good as identical: no cut lies above it."""
HASH_BITS = 64
CALIBRATION_LIMIT = 1000
"""Training images that are compared with all the others, at most."""


@dataclass(frozen=True)
class Nearest:
    """The training image most like a generated one (the one it copies, if it does)."""

    index: int
    similarity: float
    """Cosine, in [-1, 1]."""
    distance: int
    """Hamming distance of the hashes, bits of 64."""
    copied: bool


@dataclass(frozen=True)
class Cuts:
    """Where a view is convinced, and where it agrees."""

    cosine: float
    cosine_agrees: float
    bits: int
    bits_agrees: int
    calibrated_on: int
    """Originals the cuts were read from."""


def perceptual_hashes(images: Sequence[Image]) -> Hashes:
    """n RGB images → n×2×64 bits: DCT hash (``imagehash.phash``) as it is, and mirrored."""
    import imagehash
    from PIL import ImageOps

    rows = [
        [imagehash.phash(view).hash.reshape(-1) for view in (image, ImageOps.mirror(image))]
        for image in images
    ]
    return np.array(rows, dtype=bool).reshape(len(rows), 2, HASH_BITS)


class CopyDetector:
    """Nearest training image by embedding and hash, with calibrated cuts.

    Args:
        vectors: n×d, rows of unit length: embeddings of the training images, n ≥ 2.
        hashes: n×2×64, :func:`perceptual_hashes` of the same images.
        held_vectors: m×d of real images outside the training set; may be empty.
        held_hashes: m×2×64.
    """

    def __init__(
        self, vectors: Vectors, hashes: Hashes, held_vectors: Vectors, held_hashes: Hashes
    ) -> None:
        if len(vectors) < 2:
            msg = f"calibrating copy detection needs 2 training images, not {len(vectors)}"
            raise ValueError(msg)
        self._vectors, self._hashes = vectors, hashes
        own = np.linspace(0, len(vectors) - 1, min(len(vectors), CALIBRATION_LIMIT)).astype(int)
        similar, distant = self._compare(vectors[own], hashes[own])
        similar[np.arange(len(own)), own] = -np.inf
        distant[np.arange(len(own)), own] = HASH_BITS
        held_similar, held_distant = self._compare(held_vectors, held_hashes)
        cosines = np.concatenate([similar.max(axis=1), held_similar.max(axis=1)])
        bits = np.concatenate([distant.min(axis=1), held_distant.min(axis=1)])
        self.cuts = Cuts(
            cosine=_cut(cosines, CONVINCED),
            cosine_agrees=_cut(cosines, AGREES),
            # One bit short of the quantile, since distances are whole numbers and tie.
            bits=max(int(np.percentile(bits, 100 - CONVINCED, method="lower")) - 1, 0),
            bits_agrees=int(np.percentile(bits, 100 - AGREES, method="lower")),
            calibrated_on=len(cosines),
        )

    def nearest(self, vectors: Vectors, hashes: Hashes) -> list[Nearest]:
        """The training image closest to each of k images: k×d embeddings, k×2×64 hashes."""
        cuts, found = self.cuts, []
        for similar, distant in zip(*self._compare(vectors, hashes), strict=True):
            copies = ((similar >= cuts.cosine) & (distant <= cuts.bits_agrees)) | (
                (distant <= cuts.bits) & (similar >= cuts.cosine_agrees)
            )
            # Among copies if there are any: cosines span at most 2.
            pick = int((similar + 2 * copies).argmax())
            found.append(
                Nearest(pick, float(similar[pick]), int(distant[pick]), bool(copies.any()))
            )
        return found

    def _compare(self, vectors: Vectors, hashes: Hashes) -> tuple[Vectors, Bits]:
        """k×n cosines, and Hamming distances to the training images or their mirror images."""
        # Bits as ±1: equal ones add 1 to the product, others take 1 away.
        plain = _signs(hashes[:, 0])
        views = [HASH_BITS - plain @ _signs(self._hashes[:, view]).T for view in (0, 1)]
        distant = (np.minimum(*views) / 2).round().astype(np.int64)
        return vectors @ self._vectors.T, distant


def _signs(bits: Hashes) -> NDArray[np.float32]:
    return np.where(bits, 1, -1).astype(np.float32)


def _cut(cosines: Vectors, percentile: float) -> float:
    return min(float(np.percentile(cosines, percentile)), CEILING)
