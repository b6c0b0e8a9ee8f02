"""Which pictures are copies of others: greedy, best first, never transitive.

The article keeps a text when no kept text is closer than 0.85 (``filter_by_semantic_
similarity``). The same loop runs here over pictures in order of worth, so that the best copy
stays, and a chain A ~ B ~ C never removes a C that is unlike A. Kinds of copies:

``near_duplicate``
    the same drawing, re-encoded or resized: perceptual hash *and* thumbnail agree.
``semantic_duplicate``
    image embeddings at or above ``image_similarity`` and a second witness: text embeddings at
    or above ``text_similarity`` (0.85), or fingerprints that are alike though not the same.
    For captions the article's rule alone would delete different pictures of one thing ("cat",
    "a cat"), and image embeddings alone those that a small scorer can't tell apart (it took a
    carrot for a cheese wedge: 62 of 152 line icons); both together say "the same thing again".
``text_duplicate``
    long texts (30 words) at or above ``text_similarity``, and pictures at or above 0.9. The
    article's rule was made for long texts; it never convicts without a look at the picture,
    since one description often stands under a whole series.

Only pairs that :mod:`lora_factory.imaging.neighbours` finds close are looked at, so that a
million pictures are no other case than a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lora_factory.imaging.neighbours import Neighbours, neighbours, radius_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.imaging.hashes import Fingerprints

    Indices = NDArray[np.int64]

NEAR_BITS = 48  # of 256; a JPEG at quality 60 flips at most 44 (imaging.hashes)
NEAR_RMS = 0.058  # between a JPEG's worst 0.051 and the closest different icons' 0.065
ALIKE_BITS = 64  # alone: 1 false pair among 33,826 of distinct icons, 412 of 452 shifted
ALIKE_RMS = 0.12  # copies (1 px) and every JPEG at quality 40 found
LONG_WORDS = 30
LONG_IMAGE = 0.9  # imagededup's default for embeddings

Kind = Literal["near_duplicate", "semantic_duplicate", "text_duplicate"]
KINDS: tuple[Kind, ...] = ("near_duplicate", "semantic_duplicate", "text_duplicate")


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
    ``words``: n, how long each text is.
    """

    prints: Fingerprints
    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    words: NDArray[np.int64]

    def of(self, order: Indices) -> Evidence:
        """The evidence of some items, in this order."""
        prints = type(self.prints)(self.prints.bits[order], self.prints.thumbs[order])
        return Evidence(prints, self.images[order], self.texts[order], self.words[order])


@dataclass(frozen=True)
class Limits:
    """How close copies are, as cosines; and how many cores may look for them."""

    image_similarity: float = 0.97
    text_similarity: float = 0.85
    threads: int = 1


@dataclass(frozen=True)
class Copies:
    """What was found, best copies' order; ``recall`` as :class:`Neighbours` estimates it."""

    found: tuple[Copy, ...]
    recall: float = 1.0


def copies(evidence: Evidence, order: Sequence[int], limits: Limits, *, known: int = 0) -> Copies:
    """Walk through ``order`` (best first) and name what copies something kept before.

    The first ``known`` of the order are kept: they were judged in an earlier run, and only
    what is new is compared with them and with each other.
    """
    ranks = np.asarray(order, dtype=np.int64)
    found: list[Copy] = []
    recall = 1.0
    while True:
        pairs = _pairs(evidence.of(ranks), limits, known)
        recall = min([recall, *(each.recall for each in pairs)])
        new = [Copy(int(ranks[c.index]), int(ranks[c.of]), c.kind) for c in _walk(pairs)]
        found += new
        if not new or all(each.trees == 0 for each in pairs):
            return Copies(tuple(found), recall)
        # A forest names some of the neighbours of what has very many; those that are left
        # are compared again among themselves.
        touched = np.zeros(len(ranks), dtype=np.bool_)
        for each in pairs:
            touched[each.first] = touched[each.second] = True
        touched &= ~np.isin(ranks, [copy.index for copy in new])
        known = int(touched[:known].sum())
        ranks = ranks[touched]


def _pairs(evidence: Evidence, limits: Limits, known: int) -> tuple[Neighbours, ...]:
    """Pairs of ranks for each of ``KINDS``."""
    prints, texts = evidence.prints, evidence.texts

    def near(first: Indices, second: Indices) -> NDArray[np.bool_]:
        return _alike(prints, first, second, NEAR_BITS, NEAR_RMS)

    def semantic(first: Indices, second: Indices) -> NDArray[np.bool_]:
        same = _cosines(texts, first, second) >= limits.text_similarity
        same[~same] = _alike(prints, first[~same], second[~same], ALIKE_BITS, ALIKE_RMS)
        return same

    def told(first: Indices, second: Indices) -> NDArray[np.bool_]:
        return _cosines(texts, long[first], long[second]) >= limits.text_similarity

    threads = limits.threads
    small = prints.small()
    radius = NEAR_RMS * float(np.sqrt(small.shape[1]))
    long = np.flatnonzero(evidence.words >= LONG_WORDS)
    by_text = neighbours(
        evidence.images[long],
        radius_of(LONG_IMAGE),
        known=int(np.searchsorted(long, known)),
        accept=told,
        threads=threads,
    )
    return (
        neighbours(small, radius, known=known, accept=near, threads=threads),
        neighbours(
            evidence.images,
            radius_of(limits.image_similarity),
            known=known,
            accept=semantic,
            threads=threads,
        ),
        Neighbours(long[by_text.first], long[by_text.second], by_text.trees, by_text.recall),
    )


def _walk(pairs: tuple[Neighbours, ...]) -> Iterator[Copy]:
    """Best first: an item with a kept neighbour before it is that one's copy."""
    first = np.concatenate([each.first for each in pairs])
    second = np.concatenate([each.second for each in pairs])
    kind = np.repeat(np.arange(len(pairs)), [len(each.first) for each in pairs])
    gone: set[int] = set()
    for at in np.lexsort((first, kind, second)).tolist():
        index, of = int(second[at]), int(first[at])
        if index not in gone and of not in gone:
            gone.add(index)
            yield Copy(index, of, KINDS[kind[at]])


def _cosines(rows: NDArray[np.float32], first: Indices, second: Indices) -> NDArray[np.float32]:
    return np.asarray(np.einsum("pd,pd->p", rows[first], rows[second]))


def _alike(
    prints: Fingerprints, first: Indices, second: Indices, bits: int, rms: float
) -> NDArray[np.bool_]:
    """Which of p pairs have hashes within ``bits`` and thumbnails within ``rms``."""
    alike: NDArray[np.bool_] = prints.hamming(first, second) <= bits
    # Thumbnails only where the hashes agree: they are far longer.
    alike[alike] = prints.rms(first[alike], second[alike]) <= rms
    return alike
