"""Which pairs alignment drops, once the scorer is trusted."""

from __future__ import annotations

import pytest

from lora_factory.sanitize.aligned import misaligned

COSINES = {index: index / 100 for index in range(50)}


@pytest.mark.parametrize(
    ("percentile", "worst"), [(0, 0), (1.9, 0), (2, 1), (3.9, 1), (10, 5), (50, 25)]
)
def test_the_share_is_never_exceeded(percentile: float, worst: int) -> None:
    gone = misaligned(COSINES, percentile=percentile, floor=None)
    assert gone == dict.fromkeys(range(worst), "worst_alignment")


def test_the_floor_drops_whatever_is_below() -> None:
    gone = misaligned(COSINES, percentile=0, floor=0.03)
    assert gone == dict.fromkeys((0, 1, 2), "below_alignment_floor")
    assert misaligned(COSINES, percentile=0, floor=-1) == {}


def test_both_give_one_reason_a_pair() -> None:
    gone = misaligned(COSINES, percentile=10, floor=0.03)
    assert [gone[index] for index in range(5)] == ["below_alignment_floor"] * 3 + [
        "worst_alignment"
    ] * 2


def test_equal_cosines_are_dropped_in_order_up_to_the_share() -> None:
    assert misaligned(dict.fromkeys(range(20), 0.5), percentile=10, floor=None) == {
        0: "worst_alignment",
        1: "worst_alignment",
    }


def test_no_pairs() -> None:
    assert misaligned({}, percentile=50, floor=1.0) == {}
