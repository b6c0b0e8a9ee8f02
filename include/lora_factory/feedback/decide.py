"""When to train again: the article's rule (4.2 ``setup_auto_retrain`` and 5.1), pure."""

from __future__ import annotations

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import RatingSummary

THRESHOLD = 0.7  # article, 4.2: retrain below this mean rating
MAX_NEW = 1000  # article, 5.1: retrain beyond this many new items
# With fewer ratings the daily mean says little: binary ratings of true mean 0.8 fall below
# 0.7 by chance on 26% of days at n = 5, on 9% at n = 20.
MIN_RATINGS = 20


class Decision(Contract):
    """Whether to retrain, and why; carries the numbers it rests on."""

    retrain: bool
    reason: str
    mean: float | None
    n: int
    new_items: int


def decide(
    ratings: RatingSummary,
    *,
    threshold: float = THRESHOLD,
    max_new: int = MAX_NEW,
    min_ratings: int = MIN_RATINGS,
) -> Decision:
    """Retrain where the mean rating is below ``threshold``, or new items exceed ``max_new``.

    The mean counts only with at least ``min_ratings`` ratings; no rating never triggers.
    Both comparisons are strict, as in the article.
    """
    n, mean, new = ratings.n, ratings.mean, ratings.new_items
    if mean is not None and n >= min_ratings and mean < threshold:
        retrain, reason = True, f"mean rating {mean:.3f} of {n} is below {threshold}"
    elif new > max_new:
        retrain, reason = True, f"{new} new items are more than {max_new}"
    elif mean is None:
        retrain, reason = False, "no rating yet"
    elif n < min_ratings:
        retrain, reason = False, f"{n} ratings are too few to judge (at least {min_ratings})"
    else:
        retrain, reason = False, f"mean rating {mean:.3f} of {n} is not below {threshold}"
    return Decision(retrain=retrain, reason=reason, mean=mean, n=n, new_items=new)
