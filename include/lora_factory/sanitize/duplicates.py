"""Duplicates: perceptual and semantic, greedy keep-best, never chained.

*Perceptual*: the difference hashes differ in at most 48 of 256 bits and the thumbnails by at
most 0.055 RMS (see :mod:`lora_factory.imaging.hashes` for what was measured).

*Semantic*: the image embeddings reach ``image_similarity``, and a second witness agrees:
either the texts reach ``text_similarity`` (the article's 0.85 of all-MiniLM-L6-v2), or the
pictures themselves are close (64 bits, 0.12 RMS: a shifted or recoloured copy). Neither
embedding convicts alone. At 0.85 the text embedder calls "red apple" and "green apple" the
same, and a page titled "Icons" makes all its pictures equal. A small CLIP before black line
icons puts a cheese and an embrace at 0.991.

An item is compared with kept items only. With A~B and B~C but not A~C, union-find would drop
both B and C; here C stays, since nothing kept is like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.imaging.hashes import Fingerprints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Indices = NDArray[np.intp]

BLOCK = 1024
NEAR_BITS, NEAR_RMS = 48, 0.055
ALIKE_BITS, ALIKE_RMS = 64, 0.12


@dataclass(frozen=True)
class Features:
    """What duplicates are judged by, for n items.

    ``images``: n×d, unit rows, joint space. ``texts``: n×k, unit rows; a row of zeros where
    there is no text, so that it is like nothing.
    """

    prints: Fingerprints
    images: Floats
    texts: Floats


@dataclass(frozen=True)
class Duplicate:
    """``item`` was dropped in favour of ``kept``; both are row numbers."""

    item: int
    kept: int
    reason: str
    detail: str


def find_duplicates(
    features: Features, order: Indices, *, image_similarity: float, text_similarity: float
) -> list[Duplicate]:
    """Greedy pass over ``order`` (best first); exact, by blocked matrix products.

    Work is n × kept products of 256 + d numbers; memory is 1,024 × kept.
    """
    kept = np.zeros(0, dtype=np.intp)
    found: list[Duplicate] = []
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        dropped: dict[int, Duplicate] = {}
        fresh: list[int] = []
        against = np.concatenate([kept, rows])
        pairs: dict[int, list[Duplicate]] = {}
        for pair in _pairs(features, rows, against, image_similarity, text_similarity):
            pairs.setdefault(pair.item, []).append(pair)
        alive = set(kept.tolist())
        for row in rows.tolist():
            hit = next((pair for pair in pairs.get(row, []) if pair.kept in alive), None)
            if hit is None:
                alive.add(row)
                fresh.append(row)
            else:
                dropped[row] = hit
        found.extend(dropped.values())
        kept = np.concatenate([kept, np.asarray(fresh, dtype=np.intp)])
    return found


def _pairs(
    features: Features, rows: Indices, against: Indices, images: float, texts: float
) -> Iterator[Duplicate]:
    """Duplicate pairs of each row and an item that comes before it in ``against``."""
    bits = features.prints.hamming_to(rows, against)
    cosine = features.images[rows] @ features.images[against].T
    position = len(against) - len(rows) + np.arange(len(rows))
    before = np.arange(len(against))[None, :] < position[:, None]
    # First the cheap test over all pairs, then the others over the few that pass it.
    first, second = np.nonzero(before & ((bits <= NEAR_BITS) | (cosine >= images)))
    items, others = rows[first], against[second]
    bits, cosine = bits[first, second], cosine[first, second]
    rms = features.prints.rms(items, others)
    text = np.sum(features.texts[items] * features.texts[others], axis=1)
    near = (bits <= NEAR_BITS) & (rms <= NEAR_RMS)
    alike = (bits <= ALIKE_BITS) & (rms <= ALIKE_RMS)
    same = (cosine >= images) & (alike | (text >= texts))
    for index in np.flatnonzero(near | same):
        reason = "near_duplicate" if near[index] else "semantic_duplicate"
        detail = (
            f"image cosine {cosine[index]:.3f}, text cosine {text[index]:.2f}, "
            f"{bits[index]:.0f} bits, thumbnail RMS {rms[index]:.3f}"
        )
        yield Duplicate(int(items[index]), int(others[index]), reason, detail)
