"""Agreement of a scorer with the data: values by hand, and when it is believed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_factory.imaging.agreement import MIN_PAIRS, Agreement, agreement


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def noise(count: int, seed: int, width: int = 32) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def test_two_pairs_by_hand() -> None:
    images = np.eye(2, dtype=np.float32)
    found = agreement(images, images)
    assert (found.pairs, found.matched, found.shuffled) == (2, 1.0, 0.0)
    assert (found.auc, found.low) == (1.0, 1.0)
    swapped = agreement(images, images[::-1].copy())
    assert (swapped.matched, swapped.shuffled, swapped.auc, swapped.low) == (0, 1, 0, 0)


def test_three_pairs_by_hand() -> None:
    """Cosines (0.8 0.6 0 | 0 1 0 | 0.6 0.8 0): wins 2 of 2, 2 of 2 and 0 of 2."""
    texts = np.eye(3, dtype=np.float32)
    images = np.array([[0.8, 0.6, 0], [0, 1, 0], [0.6, 0.8, 0]], dtype=np.float32)
    found = agreement(images, texts)
    assert found.matched == pytest.approx((0.8 + 1 + 0) / 3)
    assert found.shuffled == pytest.approx((0.6 + 0 + 0 + 0 + 0.6 + 0.8) / 6)
    assert found.auc == pytest.approx(2 / 3)
    assert found.low == 0.0


def test_equal_texts_count_as_half_a_win() -> None:
    images = noise(20, 0)
    same = np.repeat(noise(1, 1), 20, axis=0)
    found = agreement(images, same)
    assert found.auc == pytest.approx(0.5)
    assert not found.trusted
    assert found.weight == 0


def test_pairs_that_belong_together_are_trusted_and_shuffled_ones_not() -> None:
    images = noise(40, 0)
    texts = unit(images + 0.3 * noise(40, 1))
    good = agreement(images, texts)
    assert good.trusted
    assert good.low > 0.95
    assert good.weight == pytest.approx(2 * good.low - 1)
    order = np.roll(np.arange(40), 7)
    bad = agreement(images, texts[order])
    assert bad.auc == pytest.approx(0.5, abs=0.15)
    assert not bad.trusted


def test_a_scorer_that_is_surely_but_barely_better_than_chance_is_not_trusted() -> None:
    images = noise(1500, 0)
    texts = unit(0.12 * images + noise(1500, 1))
    found = agreement(images, texts)
    assert found.low > 0.5
    assert found.auc < 0.75
    assert not found.trusted


@pytest.mark.parametrize("count", [0, 1, 2, MIN_PAIRS - 1])
def test_few_pairs_abstain(count: int) -> None:
    images = noise(count, 0)
    found = agreement(images, images)
    assert found.pairs == count
    assert not found.trusted
    assert found.weight == 0
    assert agreement(noise(MIN_PAIRS, 0), noise(MIN_PAIRS, 0)).trusted


def test_seeded_and_sampled_above_its_limit() -> None:
    images = noise(2100, 0, 8)
    texts = unit(images + noise(2100, 1, 8))
    assert agreement(images, texts) == agreement(images, texts)
    every = agreement(images[:2000], texts[:2000])
    assert agreement(images, texts).auc == pytest.approx(every.auc, abs=0.02)


def test_default_report_claims_nothing() -> None:
    assert not Agreement(pairs=100).trusted
