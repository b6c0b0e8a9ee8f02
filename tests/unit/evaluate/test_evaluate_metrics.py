"""The four scores: anchors, pinned values, and sabotage in embedding space."""

import time
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from lora_factory.contracts.evaluation import Constants, Scale
from lora_factory.evaluate import metrics
from lora_factory.evaluate.metrics import Drift, Pairs
from lora_factory.evaluate.statistics import resample

DIM, REAL = 64, 16
PLAIN = Constants()


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


def scores(pairs: Pairs) -> dict[str, float]:
    return {name: float(found[0]) for name, found in metrics.quality_scores(pairs, PLAIN).items()}


def test_a_lora_as_good_as_real_images_scores_one() -> None:
    found = scores(World().pairs())
    assert found["fidelity"] > 0.97
    assert found["alignment"] > 0.95
    assert found["diversity"] > 0.9


def test_the_base_itself_scores_no_fidelity() -> None:
    pairs = World().pairs()
    found = scores(replace(pairs, lora=pairs.base))
    assert found["fidelity"] == 0.0
    assert found["diversity"] < 0.05


def test_half_way_is_half() -> None:
    pairs = World().pairs()
    blend = replace(pairs, lora=pairs.real[pairs.anchor])
    base, lora, real = metrics.style_similarity(blend)[:, 0]
    assert lora == pytest.approx(real)
    assert scores(blend)["fidelity"] == pytest.approx(1.0)
    middle = replace(pairs, lora=(pairs.base + pairs.real[pairs.anchor]) / 2)
    assert scores(middle)["fidelity"] == pytest.approx(0.5, abs=1e-6)
    assert base < real


def test_real_images_are_exactly_as_varied_as_themselves() -> None:
    pairs = World().pairs()
    same = replace(pairs, lora=pairs.real[pairs.anchor])
    assert metrics.raw_diversity(same, 0.0)[0] == pytest.approx(1.0)


def test_a_collapsed_lora_has_no_diversity() -> None:
    world = World()
    one = world.images(np.zeros(24, dtype=int), world.style, noise=0.0)
    assert scores(world.pairs(one))["diversity"] < 0.01


def test_broken_pictures_are_no_variety() -> None:
    """Plain Vendi takes noise for more varied than any style."""
    world = World()
    broken = unit(world.rng.normal(size=(24, DIM)))
    pairs = world.pairs(broken)
    lora, real = metrics.diversity_of(pairs)
    assert lora.vendi > real.vendi
    assert scores(pairs)["diversity"] < 0.2  # 1.0 before it was weighted


def test_half_broken_has_half_the_variety_at_most() -> None:
    world = World()
    good = world.pairs()
    lora = good.lora.copy()
    lora[::2] = unit(world.rng.normal(size=(12, DIM)))
    assert scores(replace(good, lora=lora))["diversity"] < 0.5 < scores(good)["diversity"]


def test_copied_and_blank_pictures_are_no_variety() -> None:
    good = World().pairs()
    none = replace(good, sound=np.zeros(24, dtype=bool))
    some = replace(good, sound=np.arange(24) % 2 == 0)
    assert scores(none)["diversity"] == 0.0
    assert scores(some)["diversity"] < 0.6


def test_shuffled_subjects_have_no_alignment() -> None:
    world = World()
    wrong = world.images((world.anchor + 5) % REAL, world.style)
    found = scores(world.pairs(wrong))
    assert found["alignment"] < 0.05
    assert found["fidelity"] > 0.9


def test_what_follows_its_prompts_adheres_as_the_base_does() -> None:
    world = World()
    pairs = world.pairs()
    assert metrics.raw_adherence(replace(pairs, lora=pairs.base))[0] == 1.0
    assert metrics.raw_adherence(pairs)[0] > 0.9


def test_pictures_learnt_by_heart_are_in_the_style_and_varied_but_do_not_adhere() -> None:
    """Each picture is one of 12 training images, whatever was asked for."""
    world = World()
    known = unit(world.rng.normal(size=(12, DIM)))
    taken = known[world.rng.integers(12, size=24)]
    heart = unit(world.style + 0.7 * taken + world.rng.normal(0, 0.05, size=(24, DIM)))
    found = scores(world.pairs(heart))
    assert found["fidelity"] > 0.9
    assert found["diversity"] > 0.5
    assert found["adherence"] < 0.1


def test_what_shows_half_of_its_prompt_adheres_by_half() -> None:
    world = World()
    wrong = (world.anchor + 5) % REAL
    half = world.subjects[world.anchor] + world.subjects[wrong]
    images = unit(world.style + 0.5 * half + world.rng.normal(0, 0.05, size=(24, DIM)))
    assert 0.4 < scores(world.pairs(images))["adherence"] < 0.8
    assert scores(world.pairs(world.images(wrong, world.style)))["adherence"] < 0.05


def test_a_lora_as_close_as_real_images_is_typical() -> None:
    pairs = World().pairs()
    same = replace(pairs, lora=pairs.real[pairs.anchor])
    assert metrics.raw_typicality(same)[0] == pytest.approx(1.0)
    assert metrics.raw_typicality(replace(pairs, lora=pairs.base))[0] == 0.0


def test_nine_tenths_of_the_way_is_not_typical() -> None:
    """What overtrained LoRAs come to: fidelity forgives it, the style's own spread doesn't."""
    pairs = World().pairs()
    near = replace(pairs, lora=unit(0.2 * pairs.base + 0.8 * pairs.real[pairs.anchor]))
    assert metrics.raw_fidelity(near)[0] > 0.85
    assert metrics.raw_typicality(near)[0] < 0.3


def test_typicality_by_hand() -> None:
    """Closeness base 0, LoRA 2 and 0, real 1 and 3: closer in one of four pairs, half of ½."""
    pairs = Pairs(
        *(np.zeros((2, 1), np.float32) for _ in range(2)),
        np.arange(2),
        *(np.zeros((2, 1), np.float32) for _ in range(2)),
    )
    vars(pairs)["closeness"] = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    assert metrics.raw_typicality(pairs) == pytest.approx([0.5])
    assert metrics.raw_typicality(pairs, np.array([[2.0, 0.0]])) == pytest.approx([2.0])


def test_adherence_of_three_unlike_prompts_by_hand() -> None:
    """Three orthogonal rows lie at cosines −1/2 once centred: 3/2 above the others, thrice."""
    three, anchor = np.eye(3, dtype=np.float32), np.arange(3)
    pairs = Pairs(three, three, anchor, three, three)
    assert pairs.adherence == pytest.approx(np.full((2, 3), 4.5))
    turned = replace(pairs, lora=np.roll(three, 1, axis=0))
    assert metrics.raw_adherence(turned) == pytest.approx([-0.5])


def test_other_seeds_of_a_prompt_are_no_other_prompt() -> None:
    twice = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    pairs = Pairs(twice, twice, np.repeat(np.arange(3), 2), twice[::2], twice[::2])
    assert pairs.adherence == pytest.approx(np.full((2, 6), 4.5))


def test_one_subject_alone_adheres_to_nothing() -> None:
    world = World()
    pairs = replace(world.pairs(), anchor=np.zeros(24, dtype=np.int64))
    assert np.isfinite(pairs.adherence).all()
    lone = Pairs(pairs.base, pairs.lora, pairs.anchor, pairs.real[:1], pairs.text[:1])
    assert metrics.raw_adherence(lone)[0] == 0.0


def test_diversity_compares_equal_numbers_of_the_same_subjects() -> None:
    pairs = World().pairs()
    assert pairs.first.tolist() == list(range(REAL))
    lora, real = metrics.diversity_of(pairs)
    assert real.vendi == pytest.approx(metrics.spread(pairs.real).vendi, rel=1e-5)
    assert lora.vendi <= REAL


def test_a_replicate_is_what_its_rows_alone_would_give() -> None:
    """Weights against the same rows put down one by one."""
    world = World()
    pairs = world.pairs(unit(world.images(world.anchor, world.style, noise=0.3)))
    rows = np.array([0, 0, 3, 5, 5, 5, 9, 11])
    weights = np.bincount(rows, minlength=24)[None, :].astype(float)
    alone = replace(pairs, lora=pairs.lora[rows], base=pairs.base[rows], anchor=pairs.anchor[rows])
    assert metrics.raw_fidelity(pairs, weights) == pytest.approx(metrics.raw_fidelity(alone))
    assert metrics.raw_alignment(pairs, weights) == pytest.approx(metrics.raw_alignment(alone))
    kept = rows[pairs.anchor[rows] == rows]  # first with their subject
    quality = metrics.quality(pairs, 5.0)[kept]
    vendi = weighted_vendi(pairs.lora[kept], quality)
    real = weighted_vendi(pairs.real[pairs.anchor[kept]], np.ones(len(kept)))
    expected = quality.mean() * min((vendi - 1) / (real - 1), 1.0)
    assert metrics.raw_diversity(pairs, 5.0, weights)[0] == pytest.approx(expected, rel=1e-6)


def weighted_vendi(images: np.ndarray, weights: np.ndarray) -> float:
    wide = images.astype(float) * np.sqrt(weights / weights.sum())[:, None]
    eigen = np.linalg.eigvalsh(wide @ wide.T)
    eigen = eigen[eigen > 1e-12]
    return float(np.exp(-(eigen * np.log(eigen)).sum()))


def test_a_whole_bootstrap_takes_less_than_a_second() -> None:
    world = World()
    real = world.images(np.arange(64) % REAL, world.style)
    base = world.images(np.arange(64) % REAL, world.other)
    pairs = Pairs(base, real, np.arange(64), real, real)
    start = time.process_time()
    metrics.quality_scores(pairs, PLAIN, resample(64, 1, np.random.default_rng(0), 2000))
    assert time.process_time() - start < 1.0


def test_a_scale_says_what_is_nothing_and_what_is_all() -> None:
    scale = Scale(zero=0.2, one=0.7)
    raw = np.array([-1.0, 0.2, 0.45, 0.7, 2.0])
    assert metrics.scaled(raw, scale) == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    with pytest.raises(ValidationError, match="two different points"):
        Scale(zero=0.5, one=0.5)


class DriftWorld:
    """Eight prompts: base pictures near their subject, with two seeds each."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(2)
        self.subjects = unit(self.rng.normal(size=(8, DIM)))
        self.base, self.other = self.draw(self.subjects), self.draw(self.subjects)

    def draw(self, centres: np.ndarray) -> np.ndarray:
        return unit(centres + self.rng.normal(0, 0.05, size=(8, DIM)))


def test_drift_is_one_for_untouched_pictures_and_zero_for_other_subjects() -> None:
    world = DriftWorld()
    kept = metrics.raw_drift(Drift(world.base, world.other, world.base))[0]
    as_another_seed = metrics.raw_drift(Drift(world.base, world.other, world.other))[0]
    moved = world.draw(np.roll(world.subjects, 1, axis=0))
    lost = metrics.raw_drift(Drift(world.base, world.other, moved))[0]
    assert kept > 1.0
    assert as_another_seed == pytest.approx(1.0)
    assert abs(lost) < 0.2


def test_drift_falls_as_the_style_leaks() -> None:
    world = DriftWorld()
    style = unit(world.rng.normal(size=(1, DIM)))
    found = []
    for leak in (0.0, 0.5, 1.0, 3.0):
        lora = unit(world.base + leak * style)
        found.append(metrics.raw_drift(Drift(world.base, world.other, lora))[0])
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5


def test_drift_of_seeds_that_differ_as_prompts_do_says_nothing() -> None:
    world = DriftWorld()
    strangers = unit(world.rng.normal(size=(8, DIM))) * -1
    drift = Drift(world.base, -world.base, strangers)
    assert metrics.raw_drift(drift)[0] == 0.0


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
    sight = metrics.readable(World().pairs(), 24, np.random.default_rng(0))
    assert sight.p_value < 0.001
    assert sight.error < 0.25


def test_the_scorer_cannot_read_noise() -> None:
    world = World()
    pairs = world.pairs()
    found = []
    for seed in range(20):
        text = unit(np.random.default_rng(100 + seed).normal(size=(REAL, DIM)))
        blind = Pairs(pairs.base, pairs.lora, pairs.anchor, pairs.real, text)
        sight = metrics.readable(blind, 24, np.random.default_rng(seed))
        found.append(sight.p_value <= 0.05 and sight.error <= 0.25)
    assert sum(found) <= 1


def test_equal_texts_tell_nothing() -> None:
    pairs = World().pairs()
    same = np.tile(pairs.text[:1], (REAL, 1))
    blind = Pairs(pairs.base, pairs.lora, pairs.anchor, pairs.real, same)
    sight = metrics.readable(blind, 24, np.random.default_rng(0))
    assert sight.p_value == 1.0
    assert sight.error == float("inf")


def test_efficiency_takes_the_least_disturbed_runs() -> None:
    base, lora = np.array([1.0, 9.0, 5.0]), np.array([7.0, 1.25, 5.0])
    assert metrics.raw_efficiency(base, lora) == pytest.approx([0.8])
    assert metrics.scaled(metrics.raw_efficiency(lora, base), Scale()) == pytest.approx([1.0])


def test_nothing_to_measure_gives_zero_not_one() -> None:
    same = np.tile(unit(np.ones((1, DIM))), (24, 1))
    pairs = Pairs(same, same, np.arange(24) % REAL, same[:REAL], same[:REAL])
    assert scores(pairs) == dict.fromkeys(
        ("fidelity", "alignment", "diversity", "typicality", "adherence"), 0.0
    )


def test_own_matches_need_no_readable_real_image() -> None:
    world = World()
    pairs = world.pairs()
    blind = replace(pairs, real=unit(pairs.real + 9 * world.style))
    assert max(metrics.own_matches(blind, np.random.default_rng(0))) < 0.01
    other = world.images((world.anchor + 5) % REAL, world.style)
    shuffled = metrics.own_matches(replace(blind, lora=other), np.random.default_rng(0))
    assert shuffled.base < 0.01
    assert shuffled.lora > 0.2
