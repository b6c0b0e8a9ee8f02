"""Which pictures are copies of others: greedy, best first, never transitive.

The article keeps a text when no kept text is closer than 0.85 (``filter_by_semantic_
similarity``). The same loop runs here over pictures in order of worth, so that the best copy
stays, and a chain A ~ B ~ C never removes a C that is unlike A. Two kinds of copies:

``near_duplicate``
    the same drawing, re-encoded or resized: perceptual hash *and* thumbnail agree.
``semantic_duplicate``
    image embeddings at or above ``image_similarity`` and a second witness: text embeddings at
    or above ``text_similarity`` (0.85), or fingerprints that are alike though not the same.
    For captions the article's rule alone would delete different pictures of one thing ("cat",
    "a cat"), and image embeddings alone those that a small scorer can't tell apart (it took a
    carrot for a cheese wedge: 62 of 152 line icons); both together say "the same thing again".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.imaging.hashes import Fingerprints

NEAR_BITS = 48  # of 256; a JPEG at quality 60 flips at most 44 (imaging.hashes)
NEAR_RMS = 0.058  # between a JPEG's worst 0.051 and the closest different icons' 0.065
ALIKE_BITS = 64  # alone: 1 false pair among 33,826 of distinct icons, 412 of 452 shifted
ALIKE_RMS = 0.12  # copies (1 px) and every JPEG at quality 40 found

Kind = Literal["near_duplicate", "semantic_duplicate"]


@dataclass(frozen=True)
class Copy:
    """Item ``index`` is a copy of the kept item ``of``."""

    index: int
    of: int
    kind: Kind


@dataclass(frozen=True)
class Evidence:
    """What duplicates are judged by, for n items.

    ``images``: n×d unit rows. ``texts``: n×k unit rows, zero where there is no text.
    """

    prints: Fingerprints
    images: NDArray[np.float32]
    texts: NDArray[np.float32]


def copies(
    evidence: Evidence, order: list[int], *, image_similarity: float, text_similarity: float
) -> Iterator[Copy]:
    """Walk through ``order`` (best first) and yield what copies something kept before.

    Cost: n × kept products; exact. Comfortable to some 50,000 items.
    """
    kept: list[int] = []
    for index in order:
        others = np.asarray(kept, dtype=np.intp)
        found = _first(others, _alike(evidence.prints, index, others, NEAR_BITS, NEAR_RMS))
        kind: Kind = "near_duplicate"
        if found is None:
            kind = "semantic_duplicate"
            close = evidence.images[others] @ evidence.images[index] >= image_similarity
            same = evidence.texts[others] @ evidence.texts[index] >= text_similarity
            alike = _alike(evidence.prints, index, others, ALIKE_BITS, ALIKE_RMS)
            found = _first(others, close & (same | alike))
        if found is None:
            kept.append(index)
        else:
            yield Copy(index, found, kind)


def _alike(
    prints: Fingerprints, index: int, others: NDArray[np.intp], bits: int, rms: float
) -> NDArray[np.bool_]:
    """Which of ``others`` (k) have a hash within ``bits`` and a thumbnail within ``rms``."""
    row = np.asarray([index], dtype=np.intp)
    alike: NDArray[np.bool_] = prints.hamming_to(row, others)[0] <= bits
    # Thumbnails only where the hashes agree: they are three times as long.
    alike[alike] = prints.rms(np.repeat(row, int(alike.sum())), others[alike]) <= rms
    return alike


def _first(others: NDArray[np.intp], hits: NDArray[np.bool_]) -> int | None:
    return int(others[np.argmax(hits)]) if hits.any() else None
