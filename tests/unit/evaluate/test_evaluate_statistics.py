"""Statistics against pinned values and known behaviour."""

import numpy as np
import pytest

from lora_factory.evaluate.statistics import (
    geometric_mean,
    geometric_means,
    interval,
    matched_pairs,
    resample,
)


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([0.5, 0.5], 0.5),
        ([1.0, 0.25], 0.5),
        ([0.8, 0.9, 1.0], 0.8962809493),
        ([1.0, 1.0, 0.0], 0.0),
        ([], 0.0),
    ],
)
def test_geometric_mean(scores: list[float], mean: float) -> None:
    assert geometric_mean(scores) == pytest.approx(mean)


def test_geometric_means_row_by_row() -> None:
    found = geometric_means(np.array([[1.0, 0.25], [0.0, 1.0], [0.5, 0.5]]))
    assert found == pytest.approx([0.5, 0.0, 0.5])


def means(sample: np.ndarray, seeds: int, rng: np.random.Generator, replicates: int) -> np.ndarray:
    weights = resample(len(sample) // seeds, seeds, rng, replicates)
    return weights @ sample / len(sample)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(means(rng.normal(3.0, 1.0, size=30), 1, rng, 400))
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 200 <= 0.985


def test_seeds_of_one_prompt_are_not_independent() -> None:
    """Ten seeds that say the same as one must not make the interval narrower."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=20)
    low, high = interval(means(one, 1, rng, 2000))
    low10, high10 = interval(means(np.repeat(one, 10), 10, rng, 2000))
    assert (high10 - low10) == pytest.approx(high - low, rel=0.15)


def test_resamples_take_whole_prompts_and_then_seeds() -> None:
    counts = resample(prompts=5, seeds=3, rng=np.random.default_rng(2), replicates=50)
    assert counts.shape == (50, 15)
    assert (counts.sum(axis=1) == 15).all()
    assert (counts.reshape(50, 5, 3).sum(axis=2) % 3 == 0).all()


def p_value(scores: np.ndarray, rng: np.random.Generator) -> float:
    observed, shuffled = matched_pairs(scores, rng)
    return float((shuffled >= observed).mean())


def test_permutation_test_sees_real_pairs() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 0.1, size=(15, 15)) + 0.2 * np.eye(15)
    assert p_value(scores, rng) < 0.01


def test_permutation_test_is_calibrated_on_noise() -> None:
    rng = np.random.default_rng(4)
    found = [p_value(rng.normal(size=(12, 12)), rng) <= 0.05 for _ in range(60)]
    assert sum(found) <= 8


def test_shuffled_pairs_scatter_as_theory_says() -> None:
    """Variance of the mean over a random permutation, doubly centred table: Σ c² / (m²(m−1))."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(10, 10))
    table -= table.mean(axis=0, keepdims=True)
    table -= table.mean(axis=1, keepdims=True)
    _, shuffled = matched_pairs(table, rng, 20000)
    assert shuffled.var() == pytest.approx((table**2).sum() / (100 * 9), rel=0.05)
