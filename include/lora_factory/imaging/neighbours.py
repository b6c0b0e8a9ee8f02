"""All pairs of vectors within a radius: exact while there are few, a forest beyond.

Beyond some 60,000 vectors every pair is too many. A forest of random projection trees
(Dasgupta & Freund 2008) cuts the vectors again and again at the median of a random direction;
only vectors that share a leaf are compared. Medians make all leaves equally large, whatever
clusters the data has, so that a tree costs n·log n. Trees are added until the pairs found
once and twice say that hardly any are left (Chao's estimate), so recall is measured on the
data at hand and stands in the result. Every pair is checked in all dimensions: nothing is
returned that isn't within the radius.

Vectors are compared in a sketch first: a few principal axes, which the trees cut along, and
random directions of the rest, scaled so that they stand for it (Johnson & Lindenstrauss). What
they may add to a distance is allowed for to 2.5 standard deviations, so that of pairs just at the
radius some 6 in 1000 are missed and of closer ones none worth telling. Where the sketch is as
wide as the vectors it is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Indices = NDArray[np.int64]
    Accept = Callable[[Indices, Indices], NDArray[np.bool_]]

log = logging.getLogger(__name__)
EXACT_PAIRS = 200_000_000  # every pair of 20,000 vectors: 2 s of 384 dimensions on a core
LEAF = 128  # vectors, at most
TREES = 96  # at most
ROUND = 2  # trees before recall is estimated again
RECALL = 0.995  # estimated, at which no more trees are grown
SAMPLE = 2_000  # rows that the principal axes are taken from
BLOCK = 1024  # rows at a time, of an exact comparison
CHUNK = 1 << 18  # values of a tree's rows at a time, a core: 1 MiB stays in the cache
NEAREST = 8  # earlier neighbours kept for a vector in one leaf
CUTS = 16  # principal axes
ITERATIONS = 4  # that they are found by
WIDTHS = (48, 96, 192, 384)  # random directions, the fewest that tell neighbours from strangers
PROBES = 2_000  # candidates that are looked at to know
FALSE = 0.25  # strangers a row that a tree may take for neighbours: then checking costs too much
DEVIATIONS = 2.5


@dataclass(frozen=True)
class Neighbours:
    """Pairs within the radius, ``first[i] < second[i]``, sorted by second, then first.

    Attributes:
        first: p indices.
        second: p indices.
        trees: trees that were grown; 0: every pair was compared.
        recall: estimated share of all pairs that were found; 1 where every pair was compared.
    """

    first: Indices
    second: Indices
    trees: int = 0
    recall: float = 1.0


def neighbours(
    rows: Rows,
    radius: float,
    *,
    known: int = 0,
    accept: Accept | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Neighbours:
    """Pairs of rows at most ``radius`` apart (Euclidean).

    For unit rows and a cosine c the radius is √(2 − 2c), see :func:`radius_of`. A vector with
    very many neighbours is paired with some of those that come before it, not with all: put the
    rows that win first.

    Args:
        rows: n×d; may be a memory map.
        radius: ≥ 0.
        known: pairs among the first ``known`` rows are left out: they were judged before.
        accept: which of p pairs within the radius (first, second) are wanted; None: all.
        seed: of the forest; equal inputs give equal pairs.
        threads: trees that are grown at the same time.
    """
    count = len(rows)
    if count <= 2 * LEAF or (count * count - known * known) / 2 <= EXACT_PAIRS:
        return _exact(rows, radius, known, accept)
    return _Forest(rows, radius, seed).pairs(known, accept, threads)


def radius_of(cosine: float) -> float:
    """The distance of unit vectors with this cosine."""
    return float(np.sqrt(max(0.0, 2 - 2 * cosine)))


def _exact(rows: Rows, radius: float, known: int, accept: Accept | None) -> Neighbours:
    """Compare each row from ``known`` on with all before it."""
    halves = _halves(rows)
    found_first, found_second = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for start in range(known, len(rows), BLOCK):
        block = np.asarray(rows[start : start + BLOCK])
        for left in range(0, start + len(block), BLOCK * 8):
            others = np.asarray(rows[left : min(left + BLOCK * 8, start + len(block))])
            gaps = block @ others.T
            gaps -= halves[start : start + len(block), None]
            gaps -= halves[None, left : left + len(others)]
            second, first = np.nonzero(gaps >= -(radius * radius) / 2 - _slack(halves))
            keep = first + left < second + start
            first, second = first[keep] + left, second[keep] + start
            wanted = _wanted(rows, first, second, radius, accept)
            found_first.append(first[wanted])
            found_second.append(second[wanted])
    first, second = np.concatenate(found_first), np.concatenate(found_second)
    order = np.lexsort((first, second))
    return Neighbours(first[order], second[order])


def _halves(rows: Rows) -> Rows:
    """Half the squared length of each of n rows."""
    parts = [
        np.einsum("nd,nd->n", part, part) / 2
        for start in range(0, len(rows), 1 << 16)
        for part in [np.asarray(rows[start : start + (1 << 16)])]
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _slack(halves: Rows) -> float:
    """What float32 may lose in ``x·y − |x|²/2 − |y|²/2``; the exact check comes after."""
    return 4e-6 * float(halves.max(initial=1.0))


def _wanted(
    rows: Rows, first: Indices, second: Indices, radius: float, accept: Accept | None
) -> NDArray[np.bool_]:
    """Which of p pairs are at most ``radius`` apart, in all dimensions, and accepted."""
    wanted = np.zeros(len(first), dtype=np.bool_)
    for start in range(0, len(first), 1 << 14):
        part = slice(start, start + (1 << 14))
        left, right = first[part], second[part]
        gaps = rows[left] - rows[right]
        close = np.einsum("pd,pd->p", gaps, gaps) <= radius * radius + 1e-6
        if accept is not None and close.any():
            close[close] = accept(left[close], right[close])
        wanted[part] = close
    return wanted


class _Sketch:
    """n rows in few columns, whose distances are little more than the rows' own.

    ``short``: n + 1 rows; the last one is far from everything and fills leaves up.
    ``radius2``: the squared distance in the sketch that neighbours hardly exceed.
    ``exact``: no distance is longer than the rows' own.
    """

    def __init__(
        self, rows: Rows, radius: float, random: int, seed: int, pool: ThreadPoolExecutor
    ) -> None:
        rng = np.random.default_rng(seed)
        mean, top = _principal_axes(rows, rng)
        width, cuts = top.shape
        random = min(random, width - cuts)
        self.exact = random == width - cuts
        drawn = rng.standard_normal((width, random), dtype=np.float32)
        axes = np.linalg.qr(np.concatenate([top, drawn], axis=1))[0]
        # The drawn directions stand for all that the principal axes leave.
        stands = (width - cuts) / random if random else 1.0
        axes[:, cuts:] *= np.sqrt(np.float32(stands))
        wider = DEVIATIONS * np.sqrt(2 * (stands - 1) / (width - cuts)) if random else 0.0
        offset = mean @ axes
        self.short = np.zeros((len(rows) + 1, cuts + random), dtype=np.float32)

        def project(start: int) -> None:
            out = self.short[start : min(start + (1 << 12), len(rows))]
            np.matmul(rows[start : start + len(out)], axes, out=out)
            out -= offset

        list(pool.map(project, range(0, len(rows), 1 << 12)))
        self.halves = _halves(self.short)
        self.halves[-1] = np.inf
        self.radius2 = radius * radius * (1 + wider) + 2 * _slack(self.halves[:-1])


class _Forest:
    """Random projection trees over the sketch of n rows."""

    def __init__(self, rows: Rows, radius: float, seed: int) -> None:
        self.rows, self.radius, self.seed = rows, radius, seed
        self.levels = max(0, int(np.ceil(np.log2(len(rows) / LEAF))))
        self.leaf = -(-len(rows) // (1 << self.levels))
        padded = self.leaf << self.levels
        self.fill = np.minimum(np.arange(padded), len(rows)).astype(np.int32)

    def pairs(self, known: int, accept: Accept | None, threads: int) -> Neighbours:
        """Grow trees until hardly any pair is left to find."""
        keys, times = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        refused = np.zeros(0, dtype=np.int64)
        grown, recall = 0, 0.0
        with ThreadPoolExecutor(max(1, threads)) as pool:
            sketch, first = self._sketch(known, pool)
            while grown < TREES and recall < RECALL:
                wanted = range(grown, grown + ROUND)
                made = [first] if not grown else []
                rest = pool.map(
                    lambda number: self._tree(sketch, number, known), wanted[len(made) :]
                )
                for new in chain(made, rest):
                    keys, times, refused = self._count(keys, times, refused, new, accept)
                grown += ROUND
                recall = _recall(times, grown)
                log.debug("%d trees: %d pairs, recall %.4f", grown, len(keys), recall)
        second, first = np.divmod(keys, len(self.rows))
        return Neighbours(first, second, grown, recall)

    def _sketch(self, known: int, pool: ThreadPoolExecutor) -> tuple[_Sketch, Indices]:
        """The narrowest sketch in which a tree takes few strangers for neighbours; tree 0."""
        for random in WIDTHS:
            sketch = _Sketch(self.rows, self.radius, random, self.seed, pool)
            found = self._tree(sketch, 0, known)
            if sketch.exact or not len(found):
                break
            probes = found[:: max(1, len(found) // PROBES)]
            second, first = np.divmod(probes, len(self.rows))
            strangers = ~_wanted(self.rows, first, second, self.radius, None)
            if len(found) * strangers.mean() <= FALSE * len(self.rows):
                break
        return sketch, found

    def _count(
        self,
        keys: Indices,
        times: Indices,
        refused: Indices,
        new: Indices,
        accept: Accept | None,
    ) -> tuple[Indices, Indices, Indices]:
        """Add a tree's candidates: how often each pair was found, and which are too far apart."""
        at = np.searchsorted(keys, new)
        old = np.zeros(len(new), dtype=np.bool_)
        inside = at < len(keys)
        old[inside] = keys[at[inside]] == new[inside]
        times[at[old]] += 1
        fresh = np.setdiff1d(new[~old], refused, assume_unique=True)
        second, first = np.divmod(fresh, len(self.rows))
        close = _wanted(self.rows, first, second, self.radius, accept)
        refused = np.union1d(refused, fresh[~close])
        fresh = fresh[close]
        where = np.searchsorted(keys, fresh)
        return np.insert(keys, where, fresh), np.insert(times, where, 1), refused

    def _tree(self, sketch: _Sketch, number: int, known: int) -> Indices:
        """Candidate pairs of one tree, as sorted keys ``second × n + first``."""
        rng = np.random.default_rng((self.seed, number))
        cut = sketch.short[:, :CUTS]
        axes = cut.shape[1]
        # Along the axes where rows lie far apart: there a cut parts strangers, not neighbours.
        drawn = rng.standard_normal((axes, min(axes, self.levels)))
        drawn *= cut[:-1][:SAMPLE].var(axis=0)[:, None]
        # Where there are fewer axes than levels, the directions are used again.
        directions = np.tile(np.linalg.qr(drawn)[0], -(-self.levels // axes))[:, : self.levels]
        heights = np.ascontiguousarray((cut @ directions.astype(np.float32)).T)
        found = [np.zeros(0, dtype=np.int64)]
        # In another order each time: of equal rows other ones are parted.
        order = rng.permutation(self.fill)
        found.extend(self._join(sketch, self._split(order, heights), known))
        return np.sort(np.concatenate(found))

    def _split(self, order: NDArray[np.int32], heights: Rows) -> NDArray[np.int32]:
        """Rows in the order of leaves, each leaf's indices ascending: 2^levels × leaf."""
        for level in range(self.levels):
            nodes = order.reshape(1 << level, -1)
            cut = np.argpartition(heights[level].take(nodes), nodes.shape[1] // 2, axis=1)
            cut += (np.arange(len(nodes)) * nodes.shape[1])[:, None]
            order = order.take(cut.ravel())
        return np.sort(order.reshape(1 << self.levels, -1), axis=1)

    def _join(self, sketch: _Sketch, order: NDArray[np.int32], known: int) -> Iterator[Indices]:
        """Pairs within each leaf that are close in the sketch."""
        step = max(1, CHUNK // (self.leaf * max(self.leaf, sketch.short.shape[1])))
        limit = np.float32(-sketch.radius2 / 2)
        earlier = np.tri(self.leaf, k=-1, dtype=np.bool_).ravel()
        for start in range(0, len(order), step):
            leaves = order[start : start + step]
            members, halves = sketch.short.take(leaves, axis=0), sketch.halves.take(leaves)
            products = members @ members.transpose(0, 2, 1)
            products -= halves[:, :, None]
            close = products >= halves[:, None, :] + limit
            flat = close.reshape(len(leaves), -1)
            flat &= earlier
            leaf, second, first = _nonzero(close)
            crowded = np.bincount(leaf, minlength=len(leaves)) > NEAREST * self.leaf // 2
            if crowded.any():
                close[crowded] &= np.cumsum(close[crowded], axis=2, dtype=np.int32) <= NEAREST
                leaf, second, first = _nonzero(close)
            later = leaves[leaf, second].astype(np.int64)
            sooner = leaves[leaf, first].astype(np.int64)
            wanted = (later >= known) & (later < len(self.rows))
            yield later[wanted] * len(self.rows) + sooner[wanted]


def _nonzero(close: NDArray[np.bool_]) -> tuple[Indices, Indices, Indices]:
    """As ``np.nonzero`` of three dimensions, quicker where hardly anything is set."""
    flat = np.flatnonzero(close)
    rest, first = np.divmod(flat, close.shape[2])
    leaf, second = np.divmod(rest, close.shape[1])
    return leaf, second, first


def _principal_axes(rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Mean (d) and the longest principal axes (d×k), by subspace iteration on a sample.

    Halko, Martinsson & Tropp 2011, algorithm 4.4: a full decomposition takes as long as a tree.
    """
    chosen = np.sort(rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False))
    sample = np.asarray(rows[chosen])
    mean = sample.mean(axis=0)
    sample = sample - mean
    axes = rng.standard_normal((rows.shape[1], min(CUTS, rows.shape[1])), dtype=np.float32)
    for _ in range(ITERATIONS):
        axes = np.linalg.qr(sample.T @ (sample @ axes))[0]
    return mean, axes


def _recall(times: Indices, trees: int) -> float:
    """Share of all pairs that were found, by Chao's estimate from those found once and twice."""
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    missed = (trees - 1) / trees * once * (once - 1) / (2 * (twice + 1))
    return len(times) / (len(times) + missed) if len(times) else 1.0
