"""Which pictures are copies of others: greedy, best first, never transitive.

The article keeps a text when no kept text is closer than 0.85 (``filter_by_semantic_
similarity``). The same loop runs here over pictures in order of worth, so that the best copy
stays, and a chain A ~ B ~ C never removes a C that is unlike A. Two kinds of copies:

``near_duplicate``
    the same drawing, re-encoded or resized: perceptual hash *and* thumbnail agree.
``semantic_duplicate``
    image embeddings at or above ``image_similarity`` and, where both have a text, text
    embeddings at or above ``text_similarity`` (0.85). For captions the article's rule alone
    would delete different pictures of one thing ("cat", "a cat"), and image embeddings alone
    those that a small scorer can't tell apart; both together say "the same thing again".
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
    has_text = np.any(evidence.texts != 0, axis=1)
    for index in order:
        others = np.asarray(kept, dtype=np.intp)
        found = _near(evidence.prints, index, others)
        kind: Kind = "near_duplicate"
        if found is None:
            kind = "semantic_duplicate"
            close = evidence.images[others] @ evidence.images[index] >= image_similarity
            same = evidence.texts[others] @ evidence.texts[index] >= text_similarity
            unknown = ~(has_text[others] & has_text[index])
            found = _first(others, close & (same | unknown))
        if found is None:
            kept.append(index)
        else:
            yield Copy(index, found, kind)


def _near(prints: Fingerprints, index: int, others: NDArray[np.intp]) -> int | None:
    if not len(others):
        return None
    row = np.asarray([index], dtype=np.intp)
    close = others[prints.hamming_to(row, others)[0] <= NEAR_BITS]
    if not len(close):
        return None
    return _first(close, prints.rms(np.repeat(row, len(close)), close) <= NEAR_RMS)


def _first(others: NDArray[np.intp], hits: NDArray[np.bool_]) -> int | None:
    return int(others[np.argmax(hits)]) if hits.any() else None
