"""The retrain rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.registry import RatingSummary
from lora_factory.feedback.decide import MAX_NEW, MIN_RATINGS, THRESHOLD, decide


def summary(n: int, mean: float | None, new: int = 0) -> RatingSummary:
    return RatingSummary(n=n, mean=mean, new_items=new)


@pytest.mark.parametrize(
    ("n", "mean", "new", "retrain", "words"),
    [
        (20, 0.699, 20, True, "below 0.7"),
        (20, 0.7, 20, False, "not below"),
        (1000, 0.71, 1000, False, "not below"),
        (19, 0.0, 19, False, "too few"),
        (0, None, 0, False, "no rating"),
        (1001, 0.9, 1001, True, "1001 new items"),
        (1000, 0.9, 1000, False, "not below"),
        (0, None, 1001, True, "1001 new items"),
        (5, 0.1, 1001, True, "1001 new items"),
    ],
)
def test_the_article_s_rule(
    n: int, mean: float | None, new: int, retrain: bool, words: str
) -> None:
    decision = decide(summary(n, mean, new))
    assert decision.retrain is retrain
    assert words in decision.reason
    assert (decision.n, decision.mean, decision.new_items) == (n, mean, new)


def test_thresholds_can_be_set() -> None:
    assert decide(summary(3, 0.4), min_ratings=3).retrain
    assert not decide(summary(30, 0.4), threshold=0.3).retrain
    assert decide(summary(30, 0.9, 6), max_new=5).retrain


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 3000))
def test_no_rating_never_triggers_by_itself(n: int, mean: float, new: int) -> None:
    decision = decide(summary(n, mean if n else None, new))
    by_mean = n >= MIN_RATINGS and mean < THRESHOLD
    assert decision.retrain == (by_mean or new > MAX_NEW)
