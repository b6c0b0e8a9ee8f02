"""Pairs within a radius: exact by hand, the forest against the exact search."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lora_factory.imaging import neighbours as module
from lora_factory.imaging.neighbours import Neighbours, neighbours, radius_of


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def topics(count: int, width: int = 48, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows in uneven clusters, a tenth of them copies at a cosine of 0.9 to 1."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((max(2, count // 200), width))
    chosen = (rng.random(count) ** 2 * len(middle)).astype(int)
    rows = middle[chosen] + rng.standard_normal((count, width))
    copied = count // 10
    length = np.linalg.norm(rows[:copied], axis=1, keepdims=True)
    noise = rng.standard_normal((copied, width)) / np.sqrt(width) * length
    rows[-copied:] = rows[:copied] + noise * rng.uniform(0, 0.45, (copied, 1))
    return unit(rows)


def pairs(found: Neighbours) -> set[tuple[int, int]]:
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def by_hand(rows: NDArray[np.float32], radius: float) -> set[tuple[int, int]]:
    gaps = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None], axis=2)
    first, second = np.nonzero(np.triu(gaps <= radius, 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


@pytest.fixture
def forest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_PAIRS", 0)


@given(count=st.integers(0, 60), seed=st.integers(0, 9), radius=st.sampled_from([0.0, 0.3, 1.1]))
def test_exact_is_every_pair(count: int, seed: int, radius: float) -> None:
    rows = np.random.default_rng(seed).random((count, 3), dtype=np.float32)
    found = neighbours(rows, radius)
    assert pairs(found) == by_hand(rows, radius)
    assert (found.trees, found.recall) == (0, 1.0)
    assert (found.first < found.second).all()


def test_exact_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = topics(900)
    whole = pairs(neighbours(rows, 0.5))
    monkeypatch.setattr(module, "BLOCK", 13)
    assert pairs(neighbours(rows, 0.5)) == whole == by_hand(rows, 0.5)


@pytest.mark.usefixtures("forest")
@pytest.mark.parametrize("cosine", [0.85, 0.95])
def test_the_forest_finds_nearly_all_and_nothing_else(cosine: float) -> None:
    rows = topics(5000)
    every = by_exact(rows, radius_of(cosine))
    found = neighbours(rows, radius_of(cosine))
    assert found.trees > 0
    assert pairs(found) <= every
    share = len(pairs(found)) / len(every)
    assert share >= 0.99
    assert abs(found.recall - share) <= 0.01


def spread_pairs(count: int, cosine: float, width: int = 384) -> NDArray[np.float32]:
    """Unit rows in all directions; the second half are the first half's at one cosine."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((count // 2, width)))
    noise = rng.standard_normal(rows.shape)
    noise -= np.sum(noise * rows, axis=1, keepdims=True) * rows
    return np.concatenate([rows, unit(cosine * rows + np.sqrt(1 - cosine**2) * unit(noise))])


@pytest.mark.usefixtures("forest")
@pytest.mark.parametrize(("cosine", "share"), [(0.851, 0.98), (0.9, 0.999)])
def test_a_narrow_sketch_misses_hardly_any_pair_even_at_the_radius(
    cosine: float, share: float
) -> None:
    rows = spread_pairs(240, cosine)
    with ThreadPoolExecutor(1) as pool:
        sketch = module._Sketch(rows, radius_of(0.85), 48, 0, pool)
    assert not sketch.exact
    gaps = sketch.short[:120] - sketch.short[120:240]
    assert (np.sum(gaps**2, axis=1) <= sketch.radius2).mean() >= share


def test_the_sketch_widens_where_strangers_are_close() -> None:
    """At a cosine of 0.8, strangers' 0.79 is hardly told from it in few directions."""
    middle = np.ones((1, 384)) / np.sqrt(384)
    rng = np.random.default_rng(0)
    near = unit(middle * np.sqrt(0.79) + np.sqrt(0.21 / 384) * rng.standard_normal((3000, 384)))
    far = unit(rng.standard_normal((3000, 384)))
    widths = []
    for rows in (near, far):
        with ThreadPoolExecutor(1) as pool:
            sketch, _ = module._Forest(rows, radius_of(0.8), 0)._sketch(0, pool)
        widths.append(sketch.short.shape[1])
    assert widths[0] > widths[1] == module.CUTS + module.WIDTHS[0]


def by_exact(rows: NDArray[np.float32], radius: float) -> set[tuple[int, int]]:
    return pairs(module._exact(rows, radius, 0, None))  # what the forest is measured by


@pytest.mark.usefixtures("forest")
def test_threads_and_calls_give_the_same() -> None:
    rows = topics(3000)
    first, second = (neighbours(rows, 0.4, threads=threads) for threads in (1, 3))
    assert (first.first == second.first).all()
    assert (first.second == second.second).all()


@pytest.mark.parametrize("exact", [True, False])
def test_known_pairs_are_left_out_and_others_accepted(
    exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(module, "EXACT_PAIRS", 0)
    rows = topics(2000)
    every = pairs(neighbours(rows, 0.4))
    new = pairs(neighbours(rows, 0.4, known=1900))
    assert new == {pair for pair in every if pair[1] >= 1900}
    even = pairs(neighbours(rows, 0.4, accept=lambda first, second: (first + second) % 2 == 0))
    assert even == {pair for pair in every if sum(pair) % 2 == 0}


@pytest.mark.usefixtures("forest")
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((1, 4), np.float32),
        np.zeros((700, 4), np.float32),
        np.ones((700, 1), np.float32),
        np.eye(300, dtype=np.float32),
    ],
    ids=["one", "zeros", "line", "axes"],
)
def test_odd_rows(rows: NDArray[np.float32]) -> None:
    found = neighbours(rows, 0.1)
    every = by_exact(rows, 0.1)
    assert pairs(found) <= every
    # Of very many neighbours each row keeps some that come before it.
    assert set(found.second.tolist()) >= {b for _, b in every if b >= 690}


@pytest.mark.usefixtures("forest")
def test_no_rows() -> None:
    assert pairs(neighbours(np.zeros((0, 8), np.float32), 0.1)) == set()


def test_radius_of_a_cosine() -> None:
    assert radius_of(1.0) == 0
    assert radius_of(0.0) == pytest.approx(2**0.5)
    assert radius_of(0.85) == pytest.approx(0.5477, abs=1e-4)
