"""The article's formulas with their constants, and the reasons given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.records import Domain
from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import BaseEntry, load_profile
from lora_factory.tune.measure import DatasetMeasures
from lora_factory.tune.tuner import LoRATuner


def tuner(
    *,
    size: int = 100,
    semantic: float = 0.5,
    visual: float = 0.5,
    domain: Domain = "art",
    advice: Advice | None = None,
    **entry: object,
) -> LoRATuner:
    values: dict[str, object] = {
        "name": "b",
        "family": "sd1",
        "path": "x",
        "domains": ("art",),
        "resolution": 64,
        "learning_rate": 1e-4,
        "max_rank": 128,
        "steps": 20,
        "guidance": 4.0,
    }
    return LoRATuner(
        DatasetMeasures(size, semantic, visual, domain, 64),
        BaseEntry.model_validate(values | entry),
        advice or Advice(),
    )


@pytest.mark.parametrize(
    ("semantic", "visual", "rank"),
    [(0.5, 0.5, 50), (0.75, 0.5, 67), (0.0, 0.0, 4), (1.0, 1.0, 100), (0.01, 0.02, 4)],
)
def test_rank_is_the_articles_formula(semantic: float, visual: float, rank: int) -> None:
    assert tuner(semantic=semantic, visual=visual).calculate_rank() == rank


def test_rank_follows_advice_and_stays_within_the_base() -> None:
    made = tuner(semantic=1.0, visual=1.0, advice=Advice(rank_scale=0.5), max_rank=64)
    assert made.calculate_rank() == 32
    assert made.reasons["rank"] == (
        "complexity 1.00 = 0.7 × 1.00 + 0.3 × 1.00 gives 100; "
        "this base starts with at most 64; advice × 0.5 gives 32"
    )
    assert made.followed == ["rank 32 instead of 64 (× 0.5)"]
    assert tuner(advice=Advice(rank_scale=0.1)).calculate_rank() == 5


@pytest.mark.parametrize(
    ("max_rank", "limit", "rank"), [(64, None, 75), (16, None, 24), (16, 20, 20), (200, None, 75)]
)
def test_advice_may_raise_a_rank_above_where_attempts_start(
    max_rank: int, limit: int | None, rank: int
) -> None:
    made = tuner(advice=Advice(rank_scale=1.5), max_rank=max_rank, rank_limit=limit)
    assert made.calculate_rank() == rank  # unadvised: 50, or max_rank
    assert ("at most 20 here" in made.reasons["rank"]) == (limit == 20)


def test_the_embedded_bases_cap_lets_advice_through() -> None:
    entry = load_profile("embedded", Settings()).base(None, "art")
    data = DatasetMeasures(100, 0.7, 0.5, "art", 64)
    ranks = [
        LoRATuner(data, entry, Advice(rank_scale=scale)).calculate_rank() for scale in (1, 1.5, 4)
    ]
    assert ranks == [16, 24, 64]


def test_steps_and_weight_decay_follow_advice() -> None:
    plain, advised = tuner(), tuner(advice=Advice(steps_scale=1.5, weight_decay=0.3))
    assert plain.calculate_steps(10, 16, 0.01, 600) == 190
    assert advised.calculate_steps(10, 16, 0.01, 600) == 285
    assert (plain.calculate_weight_decay(), advised.calculate_weight_decay()) == (0.01, 0.3)
    assert plain.followed == []
    assert advised.followed == [
        "285 steps instead of 190 (× 1.5)",
        "weight decay 0.3 instead of 0.01",
    ]


@given(
    st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 4), st.integers(1, 256), st.integers(1, 10**7)
)
def test_values_stay_in_the_plans_bounds(
    semantic: float, visual: float, scale: float, limit: int, size: int
) -> None:
    advice = Advice(rank_scale=scale, learning_rate_scale=scale)
    made = tuner(size=size, semantic=semantic, visual=visual, advice=advice, max_rank=limit)
    rank = made.calculate_rank()
    assert 1 <= rank <= min(2 * limit, 256)
    assert made.calculate_alpha(rank) == rank
    assert 0 < made.calculate_lr() < 1
    assert 1 <= made.calculate_batch_size() <= 16
    assert made.calculate_steps(1, 16, 0.1, 600) >= 1


def test_learning_rate_grows_with_the_set() -> None:
    assert tuner(size=1).calculate_lr() == pytest.approx(1e-4)
    assert tuner(size=100).calculate_lr() == pytest.approx(1.6e-4)  # 1 + 0.3 · log10(100)
    made = tuner(size=1000, advice=Advice(learning_rate_scale=0.5))
    assert made.calculate_lr() == pytest.approx(0.95e-4)
    assert made.reasons["learning_rate"] == "0.0001 of the base × 1.90 by size × 0.5 by advice"


@pytest.mark.parametrize(
    ("domain", "targets"),
    [
        ("art", ("to_k", "to_v", "to_q", "to_out.0")),
        ("photo", ("proj_in", "proj_out", "conv")),
        ("anime", ("to_k", "to_v", "ff.net.0.proj")),
    ],
)
def test_target_modules_are_the_articles_by_domain(
    domain: Domain, targets: tuple[str, ...]
) -> None:
    made = tuner(domain=domain)
    assert made.select_target_modules() == targets
    assert domain in made.reasons["target_modules"]
    assert tuner(domain=domain, targets=("conv1",)).select_target_modules() == ("conv1",)


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (2, 1), (8, 4), (31, 8), (32, 16), (999, 16)])
def test_batch_is_filled_at_least_twice(size: int, batch: int) -> None:
    assert tuner(size=size).calculate_batch_size() == batch


def test_small_sets_are_repeated_and_steps_fit_the_time() -> None:
    made = tuner(size=100)
    assert made.calculate_repeats() == 3
    assert made.calculate_steps(10, 16, 0.01, 600) == 190  # 10 · ceil(300 / 16)
    assert made.reasons["steps"] == "10 epochs of 19 steps"
    assert made.calculate_steps(10, 16, 0.1, 1) == 30  # 60 s · 0.8 / 1.6 s
    assert "cut to the 1 minutes allowed" in made.reasons["steps"]
    assert tuner(size=5000).calculate_repeats() == 1


def test_captions_are_dropped_for_guidance() -> None:
    assert tuner().calculate_caption_dropout() == 0.2


def test_the_base_is_explained() -> None:
    made = tuner(domain="photo")
    assert made.select_base_model(None) == "b"
    assert "photo" in made.reasons["base"]
    made.select_base_model("b")
    assert made.reasons["base"] == "asked for"
