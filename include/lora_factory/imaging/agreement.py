"""Can a scorer tell real image–text pairs from shuffled ones on this data?

A CLIP that can't read a style (a small one before black line icons) still gives cosines,
and dropping the worst of them drops at random. So whoever wants to act on cosines asks here
first and abstains when the answer is no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from lora_factory.contracts.base import Contract

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_PAIRS = 16
MIN_AUC = 0.75
BOOTSTRAPS = 1000
MAX_IMAGES = 4096
MAX_OTHERS = 2048


class Agreement(Contract):
    """How well a scorer separates n real pairs from shuffled ones.

    ``auc`` is the chance that an image's own text beats another image's text for it (0.5:
    coin toss); ``low`` the lower end of its 95% bootstrap interval over images.
    """

    pairs: int = Field(ge=0)
    matched: float = Field(0.0, description="Mean cosine of real pairs")
    shuffled: float = Field(0.0, description="Mean cosine of shuffled pairs")
    auc: float = Field(0.5, ge=0, le=1)
    low: float = Field(0.0, ge=0, le=1)

    @property
    def trusted(self) -> bool:
        """True when acting on single cosines does more good than harm.

        Significance is not enough: with many pairs a scorer that is right 55 times in 100
        is significantly better than chance and still useless about one pair. The lower end
        must be at 0.75 or above.
        """
        return self.pairs >= MIN_PAIRS and self.low >= MIN_AUC

    @property
    def weight(self) -> float:
        """Evidence in [0, 1] that the scorer's word deserves: 2·low − 1, at least 0."""
        return max(0.0, 2 * self.low - 1) if self.pairs >= MIN_PAIRS else 0.0


def agreement(
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    *,
    rows: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Agreement:
    """Compare cosines of row i with row i against row i with the others.

    Args:
        images: n×d, unit rows; may be a memory map.
        texts: n×d, unit rows; row i belongs to image i. Equal texts count as half a win.
        rows: the k rows to take; None: all.
        seed: of the bootstrap, and of the samples: above 4,096 pairs not all images are
            asked, above 2,048 not all other texts.
    """
    rows = np.arange(len(images)) if rows is None else rows
    count = len(rows)
    if count < 2:
        return Agreement(pairs=count)
    rng = np.random.default_rng(seed)
    if count > MAX_IMAGES:
        rows = np.sort(rng.choice(rows, MAX_IMAGES, replace=False))
    asked = len(rows)
    images, texts = np.asarray(images[rows]), np.asarray(texts[rows])
    columns = np.arange(asked)
    if asked > MAX_OTHERS:
        columns = np.sort(rng.choice(asked, MAX_OTHERS, replace=False))
    cosines = images @ texts[columns].T
    own = np.sum(images * texts, axis=1)
    other = columns[None, :] != np.arange(asked)[:, None]
    tie = np.abs(own[:, None] - cosines) < 1e-6
    wins = np.where(tie, np.float32(0.5), own[:, None] > cosines)
    per_image = np.sum(wins * other, axis=1) / np.maximum(other.sum(axis=1), 1)
    samples = per_image[rng.integers(0, asked, (BOOTSTRAPS, asked))].mean(axis=1)
    return Agreement(
        pairs=count,
        matched=float(own.mean()),
        shuffled=float(cosines[other].mean()),
        auc=float(per_image.mean()),
        low=float(np.quantile(samples, 0.025)),
    )
