"""Copy detection: does a generated image repeat a training image, mirrored or not?

Two views are compared: embeddings (cosine) and perceptual hashes (Hamming distance of 64
bits). Fixed cuts are wrong for LoRAs, whose images are meant to resemble the training set
(real photos of one subject average a CLIP cosine of 0.885, DreamBooth's table), so the cuts
are calibrated on originals: on how close real images that are *not* copies come to the
training set (held-out images against it, and each training image against the others).

An image counts as a copy of a training image when one view is convinced (closer than 99% of
originals come) and the other agrees (closer than half of them). So at most 2% of originals
are taken for copies.

The article's own rule (6.2 ``detect_copyright_violation``: similarity above 0.9) is reported
beside it as ``plain`` and decides nothing: where real photos of one subject average 0.885, it
calls a successful LoRA a copy, and in a uniform style it calls everything one (measured with
the embedded scorer: of 129, 400 and 300 icons that copy nothing, 31%, 39% and 99% lie above 0.9
of some icon of another hundred of their set; of 32 pictures of a sound LoRA 29 and 30 lie above
0.9 of a training image, of one ruined by training on a single image 7, and none is a copy).
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
PLAIN = 0.9
"""Cosine above which the article's rule sees a copy."""
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
    verbatim: bool = False
    """Both views are convinced of one image: hardly any original gets here."""
    plain: bool = False
    """The article's rule: some image is closer than a cosine of 0.9."""


@dataclass(frozen=True)
class Cuts:
    """Where a view is convinced, and where it agrees."""

    cosine: float
    cosine_agrees: float
    bits: int
    bits_agrees: int
    calibrated_on: int
    """Originals the cuts were read from."""

    @classmethod
    def of(cls, cosines: Vectors, bits: Bits, agrees: float = AGREES) -> Cuts:
        """Cuts from m originals: how close, in each view, the nearest image comes to each.

        ``agrees``: percentile of the originals' cosines at which the embedding agrees.
        """
        return cls(
            cosine=_cut(cosines, CONVINCED),
            cosine_agrees=_cut(cosines, agrees),
            # One bit short of the quantile, since distances are whole numbers and tie.
            bits=max(int(np.percentile(bits, 100 - CONVINCED, method="lower")) - 1, 0),
            bits_agrees=int(np.percentile(bits, 100 - AGREES, method="lower")),
            calibrated_on=len(cosines),
        )

    @property
    def chance(self) -> float:
        """Share of originals that may be taken for copies: 1% by either view.

        Of few originals the 99th percentile is the largest; the next one passes it with
        probability 1 / (m + 1).
        """
        return min(1.0, 2 * max(1 - CONVINCED / 100, 1 / (self.calibrated_on + 1)))


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
        self.cuts = Cuts.of(cosines, bits)

    def nearest(self, vectors: Vectors, hashes: Hashes) -> list[Nearest]:
        """The training image closest to each of k images: k×d embeddings, k×2×64 hashes."""
        cuts, found = self.cuts, []
        for similar, distant in zip(*self._compare(vectors, hashes), strict=True):
            copies = ((similar >= cuts.cosine) & (distant <= cuts.bits_agrees)) | (
                (distant <= cuts.bits) & (similar >= cuts.cosine_agrees)
            )
            # Among copies if there are any: cosines span at most 2.
            pick = int((similar + 2 * copies).argmax())
            both = (similar >= cuts.cosine) & (distant <= cuts.bits)
            found.append(
                Nearest(
                    index=pick,
                    similarity=float(similar[pick]),
                    distance=int(distant[pick]),
                    copied=bool(copies.any()),
                    verbatim=bool(both.any()),
                    plain=bool(similar.max() > PLAIN),
                )
            )
        return found

    def _compare(self, vectors: Vectors, hashes: Hashes) -> tuple[Vectors, Bits]:
        """k×n cosines, and Hamming distances to the training images or their mirror images."""
        views = [hash_distances(hashes[:, 0], self._hashes[:, view]) for view in (0, 1)]
        return vectors @ self._vectors.T, np.minimum(*views)


def hash_distances(hashes: Hashes, others: Hashes) -> Bits:
    """k×64 and n×64 bits → k×n Hamming distances."""
    # Bits as ±1: equal ones add 1 to the product, others take 1 away.
    equal = _signs(hashes) @ _signs(others).T
    return ((HASH_BITS - equal) / 2).round().astype(np.int64)


def _signs(bits: Hashes) -> NDArray[np.float32]:
    return np.where(bits, 1, -1).astype(np.float32)


def _cut(cosines: Vectors, percentile: float) -> float:
    return min(float(np.percentile(cosines, percentile)), CEILING)
