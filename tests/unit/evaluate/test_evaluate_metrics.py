"""The four scores: anchors, pinned values, and sabotage in embedding space."""

import numpy as np
import pytest

from lora_factory.evaluate import metrics
from lora_factory.evaluate.metrics import Pairs

DIM, REAL = 64, 16
ROWS = np.arange(24)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Embeddings of a style: a common direction, a subject each, and noise."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.style = unit(self.rng.normal(size=(1, DIM)))[0]
        self.other = unit(self.rng.normal(size=(1, DIM)))[0]
        self.subjects = unit(self.rng.normal(size=(REAL, DIM)))
        self.anchor = np.arange(24) % REAL

    def images(self, which: np.ndarray, style: np.ndarray, noise: float = 0.05) -> np.ndarray:
        grain = self.rng.normal(0, noise, size=(len(which), DIM))
        return unit(style + 0.7 * self.subjects[which] + grain)

    def pairs(self, lora: np.ndarray | None = None) -> Pairs:
        base = self.images(self.anchor, self.other)
        made = self.images(self.anchor, self.style) if lora is None else lora
        real = self.images(np.arange(REAL), self.style)
        text = unit(self.subjects + self.rng.normal(0, 0.05, size=(REAL, DIM)))
        return Pairs(base, made, self.anchor, real, text)


def test_a_lora_as_good_as_real_images_scores_one() -> None:
    pairs = World().pairs()
    assert metrics.fidelity(pairs, ROWS) > 0.97
    assert metrics.alignment(pairs, ROWS) > 0.95
    assert metrics.diversity(pairs, ROWS) > 0.95


def test_the_base_itself_scores_no_fidelity() -> None:
    world = World()
    pairs = world.pairs()
    same = Pairs(pairs.base, pairs.base, pairs.anchor, pairs.real, pairs.text)
    assert metrics.fidelity(same, ROWS) == 0.0


def test_half_way_is_half() -> None:
    pairs = World().pairs()
    blend = Pairs(pairs.base, pairs.real[pairs.anchor], pairs.anchor, pairs.real, pairs.text)
    base, lora, real = metrics.style_similarity(blend, ROWS)
    assert lora == pytest.approx(real)
    assert metrics.fidelity(blend, ROWS) == pytest.approx(1.0)
    middle = Pairs(
        pairs.base,
        (pairs.base + pairs.real[pairs.anchor]) / 2,
        pairs.anchor,
        pairs.real,
        pairs.text,
    )
    assert metrics.fidelity(middle, ROWS) == pytest.approx(0.5, abs=1e-6)
    assert base < real


def test_a_collapsed_lora_has_no_diversity() -> None:
    world = World()
    one = world.images(np.zeros(24, dtype=int), world.style, noise=0.0)
    assert metrics.diversity(world.pairs(one), ROWS) < 0.01


def test_shuffled_subjects_have_no_alignment() -> None:
    world = World()
    wrong = world.images((world.anchor + 5) % REAL, world.style)
    pairs = world.pairs(wrong)
    assert metrics.alignment(pairs, ROWS) < 0.05
    assert metrics.fidelity(pairs, ROWS) > 0.9


def test_diversity_compares_equal_numbers_of_the_same_subjects() -> None:
    pairs = World().pairs()
    assert pairs.first.sum() == REAL
    lora, real = metrics.diversity_of(pairs, ROWS)
    assert real.vendi == pytest.approx(metrics.spread(pairs.real).vendi, rel=1e-5)
    assert lora.vendi <= REAL


@pytest.mark.parametrize("count", [1, 2, 7])
def test_vendi_of_identical_images_is_one(count: int) -> None:
    assert metrics.spread(np.tile(unit(np.ones((1, 5))), (count, 1))).vendi == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_vendi_of_orthonormal_images_is_their_number(count: int) -> None:
    found = metrics.spread(np.eye(7, dtype=np.float32)[:count])
    assert found.vendi == pytest.approx(count)
    assert found.log_det == pytest.approx(np.log(1 / count + metrics.LOGDET_FLOOR))


def test_vendi_of_two_images_at_sixty_degrees() -> None:
    # Eigenvalues of [[1, .5], [.5, 1]] / 2 are 3/4 and 1/4.
    pair = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]], dtype=np.float32)
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert metrics.spread(pair).vendi == pytest.approx(expected, rel=1e-5)


def test_the_scorer_reads_a_style_whose_pairs_match() -> None:
    sight = metrics.readable(World().pairs(), np.random.default_rng(0))
    assert sight.p_value < 0.001
    assert sight.error < 0.25


def test_the_scorer_cannot_read_noise() -> None:
    world = World()
    pairs = world.pairs()
    found = []
    for seed in range(20):
        text = unit(np.random.default_rng(100 + seed).normal(size=(REAL, DIM)))
        blind = Pairs(pairs.base, pairs.lora, pairs.anchor, pairs.real, text)
        sight = metrics.readable(blind, np.random.default_rng(seed))
        found.append(sight.p_value <= 0.05 and sight.error <= 0.25)
    assert sum(found) <= 1


def test_equal_texts_tell_nothing() -> None:
    pairs = World().pairs()
    same = np.tile(pairs.text[:1], (REAL, 1))
    blind = Pairs(pairs.base, pairs.lora, pairs.anchor, pairs.real, same)
    sight = metrics.readable(blind, np.random.default_rng(0))
    assert sight.p_value == 1.0
    assert sight.error == float("inf")


def test_efficiency_takes_the_least_disturbed_runs() -> None:
    base, lora = np.array([1.0, 9.0, 5.0]), np.array([7.0, 1.25, 5.0])
    assert metrics.efficiency(base, lora) == pytest.approx(0.8)
    assert metrics.efficiency(lora, base) == 1.0


def test_nothing_to_measure_gives_zero_not_one() -> None:
    same = np.tile(unit(np.ones((1, DIM))), (24, 1))
    pairs = Pairs(same, same, np.arange(24) % REAL, same[:REAL], same[:REAL])
    assert metrics.fidelity(pairs, ROWS) == 0.0
    assert metrics.alignment(pairs, ROWS) == 0.0
    assert metrics.diversity(pairs, ROWS) == 0.0
