"""Distances between sets of images: CMMD and KID, both unbiased MMD² estimates.

Reported beside the scores and never gated on: at tens of images their intervals are wide.
FID is left out, since below some thousand images its covariance is singular.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lora_factory.evaluate.statistics import Floats
    from lora_factory.models.roles import Vectors

    Kernel = Callable[[Floats], Floats]

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Kernel width and display factor of Jayasumana et al. 2024 (arXiv 2401.09603)."""


def cmmd(
    one: Vectors, other: Vectors, weights: tuple[Floats, Floats] | None = None
) -> NDArray[np.float64]:
    """CMMD (Jayasumana et al. 2024): MMD² × 1000 with kernel exp(−‖x − y‖² / 2σ²), σ = 10.

    Args:
        one: n×d embeddings of unit length, n ≥ 2.
        other: m×d, m ≥ 2.
        weights: B×n and B×m, how often each counts; None: once, and a B of 1.

    Returns:
        B values; unbiased, so around 0 (and below) for two samples of one set.
    """
    # ‖x − y‖² = 2 − 2 cos for unit vectors.
    return CMMD_SCALE * _mmd2(one, other, weights, _rbf)


def kid(
    one: Vectors, other: Vectors, weights: tuple[Floats, Floats] | None = None
) -> NDArray[np.float64]:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401): MMD² with the cubic kernel.

    (x·y / d + 1)³ of embeddings whose mean square is 1, as Inception features about are:
    (cos + 1)³ of unit vectors. Arguments and result as :func:`cmmd`.
    """
    return _mmd2(one, other, weights, _cubic)


def _rbf(cosines: Floats) -> Floats:
    found: Floats = np.exp((cosines - 1.0) / CMMD_SIGMA**2)
    return found


def _cubic(cosines: Floats) -> Floats:
    found: Floats = (cosines + 1.0) ** 3
    return found


def _mmd2(
    one: Vectors, other: Vectors, weights: tuple[Floats, Floats] | None, kernel: Kernel
) -> NDArray[np.float64]:
    left, right = one.astype(np.float64), other.astype(np.float64)
    w, v = weights or (np.ones((1, len(left))), np.ones((1, len(right))))
    across = np.einsum("bi,ij,bj->b", w, kernel(left @ right.T), v, optimize=True)
    across = across / (w.sum(axis=1) * v.sum(axis=1))
    found: NDArray[np.float64] = _within(left, w, kernel) + _within(right, v, kernel) - 2 * across
    return found


def _within(images: Floats, weights: Floats, kernel: Kernel) -> NDArray[np.float64]:
    """Mean kernel value over pairs of different images.

    An image that a replicate holds twice is no pair with itself, which would make every
    replicate's distance too large.
    """
    table = kernel(images @ images.T)
    np.fill_diagonal(table, 0.0)
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    sums = np.einsum("bi,ij,bj->b", weights, table, weights, optimize=True)
    found: NDArray[np.float64] = sums / np.maximum(pairs, 1.0)
    return found
