"""Does the text say what the picture shows? (Article, 2.1 ``align_image_text``.)

CLIP cosines differ from checkpoint to checkpoint (published cutoffs run from 0.1 to 0.28),
so items are dropped by an absolute floor only where the spec sets one, and otherwise by
share: the worst ``alignment_percentile``. Before either, the scorer must show on this very
data that it can tell real pairs from shuffled ones (:mod:`lora_factory.imaging.agreement`);
where it can't, nothing is dropped and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.imaging.agreement import MIN_AUC, MIN_PAIRS, Agreement, agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Alignment:
    """Cosine of each pair, the scorer's agreement, rows to drop with their reason, a note."""

    cosines: NDArray[np.float32]
    agreement: Agreement
    drop: dict[int, str]
    note: str


def align(
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    *,
    floor: float | None,
    percentile: float,
) -> Alignment:
    """Judge n image–text pairs.

    Args:
        images: n×d, unit rows.
        texts: n×d, unit rows; row i is the text of image i.
        floor: cosine below which a pair is dropped, or None.
        percentile: share of the worst pairs to drop, in % (0 to 50), rounded down.
    """
    cosines = np.sum(images * texts, axis=1)
    check = agreement(images, texts)
    if not check.trusted:
        return Alignment(cosines, check, {}, _abstains(check))
    drop = {}
    if floor is not None:
        drop = {int(row): "below_alignment_floor" for row in np.flatnonzero(cosines < floor)}
    worst = np.argsort(cosines, kind="stable")[: int(len(cosines) * percentile / 100)]
    for row in worst.tolist():
        drop.setdefault(row, "worst_alignment")
    note = f"the scorer tells real pairs from shuffled ones ({check.auc:.2f}); {len(drop)} dropped"
    return Alignment(cosines, check, drop, note)


def _abstains(check: Agreement) -> str:
    if check.pairs < MIN_PAIRS:
        return f"no item dropped: {check.pairs} pairs are too few to test the scorer on"
    return (
        f"no item dropped: a picture's own text beats another's {check.auc:.2f} of the time "
        f"(95% sure of {check.low:.2f}), {MIN_AUC} needed; the scorer can't read this style"
    )
