"""The few statistics that evaluation rests on: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Rows = NDArray[np.int64]

REPLICATES = 1000
PERMUTATIONS = 2000


def geometric_mean(scores: Sequence[float]) -> float:
    """Geometric mean of scores in [0, 1]; 0 when any is 0, and 0 for no scores at all."""
    if not len(scores) or min(scores) <= 0:
        return 0.0
    return float(np.exp(np.mean(np.log(scores))))


def resample_rows(prompts: int, seeds: int, rng: np.random.Generator) -> Rows:
    """Row numbers of one two-level resample: prompts first, then seeds within each.

    Rows are laid out prompt by prompt (row = prompt × seeds + seed). Images of one prompt
    resemble each other, so resampling rows alone would give intervals that are too narrow
    (Davison & Hinkley 1997, section 3.8).
    """
    chosen = rng.integers(prompts, size=prompts)
    within = rng.integers(seeds, size=(prompts, seeds))
    rows: Rows = (chosen[:, None] * seeds + within).reshape(-1)
    return rows


def bootstrap(
    statistic: Callable[[Rows], Sequence[float]],
    prompts: int,
    seeds: int,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Floats:
    """Replicates of a statistic of rows → replicates×k."""
    return np.array([statistic(resample_rows(prompts, seeds, rng)) for _ in range(replicates)])


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
