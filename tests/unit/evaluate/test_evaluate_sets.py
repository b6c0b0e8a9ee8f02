"""CMMD and KID against definitions written out, closed forms and known behaviour."""

from collections.abc import Callable

import numpy as np
import pytest

from lora_factory.evaluate import sets

DIM = 16
Distance = Callable[..., np.ndarray]
Kernel = Callable[[np.ndarray, np.ndarray], float]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float64)


def sample(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    rows[:, 0] += 2.0 + shift
    return unit(rows)


def written_out(one: np.ndarray, other: np.ndarray, kernel: Kernel) -> float:
    """Gretton et al. 2012, equation 3: the unbiased estimate, sum by sum."""
    n, m = len(one), len(other)
    xx = sum(kernel(one[i], one[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(kernel(other[i], other[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(kernel(x, y) for x in one for y in other)
    return float(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m))


def rbf(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.exp(-((x - y) ** 2).sum() / (2 * 10.0**2)))


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    """(x·y / d + 1)³ on vectors of length √d."""
    return float(((x * np.sqrt(DIM)) @ (y * np.sqrt(DIM)) / DIM + 1) ** 3)


def test_both_are_what_their_papers_say() -> None:
    one, other = sample(0, 7), sample(1, 9, shift=1.0)
    assert sets.cmmd(one, other)[0] == pytest.approx(1000 * written_out(one, other, rbf))
    assert sets.kid(one, other)[0] == pytest.approx(written_out(one, other, cubic))


def test_pinned_values() -> None:
    """Two twins against two twins at a right angle: all sums are of two kernel values."""
    one = np.array([[1.0, 0.0], [1.0, 0.0]])
    other = np.array([[0.0, 1.0], [0.0, 1.0]])
    # exp(0) + exp(0) − 2 exp(−2 / 200), times 1000
    assert sets.cmmd(one, other)[0] == pytest.approx(19.900332, abs=1e-6)
    # 2³ + 2³ − 2 · 1³
    assert sets.kid(one, other)[0] == pytest.approx(14.0)


@pytest.mark.parametrize("distance", [sets.cmmd, sets.kid])
def test_two_samples_of_one_set_are_zero_apart_on_average(distance: Distance) -> None:
    found = [distance(sample(2 * i, 12), sample(2 * i + 1, 12))[0] for i in range(200)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0 < max(found)  # unbiased, so it can be negative


@pytest.mark.parametrize("distance", [sets.cmmd, sets.kid])
def test_it_grows_with_the_shift(distance: Distance) -> None:
    found = [distance(sample(0, 40), sample(1, 40, shift))[0] for shift in (0.0, 1.0, 3.0)]
    assert found == sorted(found)


@pytest.mark.parametrize("distance", [sets.cmmd, sets.kid])
def test_a_replicates_repeated_images_do_not_make_it_larger(distance: Distance) -> None:
    """Twice every image is the same set, and a repeated one is no pair with itself."""
    one, other = sample(0, 10), sample(1, 12, 1.0)
    twice = (np.full((1, 10), 2.0), np.full((1, 12), 2.0))
    assert distance(one, other, twice)[0] == pytest.approx(distance(one, other)[0])
    rng = np.random.default_rng(3)
    weights = tuple(
        rng.multinomial(n, np.full(n, 1 / n), size=2000).astype(float) for n in (10, 12)
    )
    replicates = distance(one, other, weights)
    assert replicates.mean() == pytest.approx(distance(one, other)[0], rel=0.15)
