"""The few statistics that evaluation rests on: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Rows = NDArray[np.int64]

REPLICATES = 2000
PERMUTATIONS = 2000


def geometric_mean(scores: Sequence[float]) -> float:
    """Geometric mean of scores in [0, 1]; 0 when any is 0, and 0 for no scores at all."""
    return float(geometric_means(np.array([scores], dtype=np.float64))[0])


def geometric_means(scores: Floats) -> Floats:
    """B×k scores in [0, 1] → B geometric means of a row (see :func:`geometric_mean`)."""
    found: Floats = np.zeros(len(scores))
    if scores.shape[1]:
        positive = (scores > 0).all(axis=1)
        found[positive] = np.exp(np.log(scores[positive]).mean(axis=1))
    return found


def resample(
    prompts: int, seeds: int, rng: np.random.Generator, replicates: int = REPLICATES
) -> Floats:
    """Two-level bootstrap: prompts first, then seeds within each → replicates×rows counts.

    Rows are laid out prompt by prompt (row = prompt × seeds + seed); each replicate says how
    often it holds each row. Images of one prompt resemble each other, so resampling rows
    alone would give intervals that are too narrow (Davison & Hinkley 1997, section 3.8).
    """
    chosen = rng.integers(prompts, size=(replicates, prompts, 1))
    within = rng.integers(seeds, size=(replicates, prompts, seeds))
    rows = (chosen * seeds + within).reshape(replicates, -1)
    offset = np.arange(replicates)[:, None] * (prompts * seeds)
    counts = np.bincount((rows + offset).ravel(), minlength=replicates * prompts * seeds)
    found: Floats = counts.reshape(replicates, -1).astype(np.float64)
    return found


def with_estimate(counts: Floats) -> Floats:
    """B×rows counts of replicates → (1 + B)×rows: every row once, then the replicates."""
    return np.concatenate([np.ones((1, counts.shape[1])), counts])


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of one statistic's replicates."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def matched_pairs(
    scores: Floats, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> tuple[float, Floats]:
    """Permutation test of matched against shuffled pairs.

    Args:
        scores: m×m, image i against text j; the diagonal holds the real pairs.
        rng: source of the permutations.
        permutations: how many.

    Returns:
        Mean score of the real pairs, and of each random pairing.
    """
    image = np.arange(len(scores))
    shuffled = [scores[image, rng.permutation(len(scores))].mean() for _ in range(permutations)]
    return float(np.diagonal(scores).mean()), np.array(shuffled)
