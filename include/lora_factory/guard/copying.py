"""Copy detection: does a generated image repeat a training image?

An image counts as a copy of a training image when both agree: the embeddings (cosine) and
the perceptual hashes (Hamming distance of 64 bits). Fixed cuts are wrong for LoRAs, whose
images are meant to resemble the training set (real photos of one subject average a CLIP
cosine of 0.885, DreamBooth's table), so both cuts are calibrated on originals: at the 99th
percentile of how close real images that are *not* copies come to the training set
(held-out images against it, and each training image against the others).
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

CEILING = 0.999
"""Cosine that is as good as identical: the cut never lies above it."""
HASH_BITS = 64
CALIBRATION_LIMIT = 1000
"""Training images that are compared with all the others, at most."""


@dataclass(frozen=True)
class Nearest:
    """The training image most like a generated one."""

    index: int
    similarity: float
    """Cosine, in [-1, 1]."""
    distance: int
    """Hamming distance of the hashes, bits of 64."""
    copied: bool


def perceptual_hashes(images: Sequence[Image]) -> Hashes:
    """n RGB images → n×64 bits (DCT hash, ``imagehash.phash``)."""
    import imagehash

    rows = [imagehash.phash(image).hash.reshape(-1) for image in images]
    return np.array(rows, dtype=bool).reshape(len(rows), HASH_BITS)


class CopyDetector:
    """Nearest training image by embedding and hash, with calibrated cuts.

    Args:
        vectors: n×d, rows of unit length: embeddings of the training images, n ≥ 2.
        hashes: n×64 bits of the same images.
        held_vectors: m×d of real images outside the training set; may be empty.
        held_hashes: m×64.
        percentile: of the real images' closeness, at which the cuts lie.
    """

    def __init__(
        self,
        vectors: Vectors,
        hashes: Hashes,
        held_vectors: Vectors,
        held_hashes: Hashes,
        percentile: float = 99.0,
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
        closest = np.concatenate([similar.max(axis=1), held_similar.max(axis=1)])
        nearest = np.concatenate([distant.min(axis=1), held_distant.min(axis=1)])
        self.calibrated_on = len(closest)
        self.similarity = min(float(np.percentile(closest, percentile)), CEILING)
        self.distance = int(np.percentile(nearest, 100 - percentile, method="lower"))

    def nearest(self, vectors: Vectors, hashes: Hashes) -> list[Nearest]:
        """The training image closest to each of k images: k×d embeddings, k×64 hashes."""
        found = []
        for similar, distant in zip(*self._compare(vectors, hashes), strict=True):
            copies = (similar >= self.similarity) & (distant <= self.distance)
            pick = int(np.where(copies, similar, similar - 2 * copies.any()).argmax())
            found.append(
                Nearest(pick, float(similar[pick]), int(distant[pick]), bool(copies.any()))
            )
        return found

    def _compare(self, vectors: Vectors, hashes: Hashes) -> tuple[Vectors, NDArray[np.int64]]:
        """k×n cosines and Hamming distances to the training images."""
        similar = vectors @ self._vectors.T
        # Bits as ±1: equal ones add 1 to the product, others take 1 away.
        signs, own = (np.where(bits, 1, -1).astype(np.float32) for bits in (hashes, self._hashes))
        distant = (HASH_BITS - signs @ own.T) / 2
        return similar, distant.round().astype(np.int64)
