"""Advice: what each failure leads to."""

import pytest

from lora_factory.contracts.evaluation import HardGate
from lora_factory.evaluate.advice import advise

GOOD: dict[str, float | None] = {
    "fidelity": 0.9,
    "alignment": 0.9,
    "diversity": 0.9,
    "efficiency": 0.9,
}


def closed(*names: str) -> dict[str, HardGate]:
    return {name: HardGate(name=name, passed=False) for name in names}


def test_a_pass_changes_nothing() -> None:
    advice = advise(GOOD, {}, passed=True)
    assert (advice.rank_scale, advice.learning_rate_scale, advice.recaption) == (1.0, 1.0, False)
    assert advice.reasons == ("passed: nothing to change",)


def test_low_fidelity_asks_for_more() -> None:
    advice = advise({**GOOD, "fidelity": 0.3}, {}, passed=False)
    assert advice.rank_scale > 1
    assert advice.learning_rate_scale > 1
    assert "fidelity 0.30" in advice.reasons[0]


@pytest.mark.parametrize(
    ("scores", "gates"),
    [({**GOOD, "diversity": 0.2}, {}), (GOOD, closed("no_copies"))],
)
def test_collapse_and_copies_ask_for_a_lower_rate(
    scores: dict[str, float | None], gates: dict[str, HardGate]
) -> None:
    advice = advise(scores, gates, passed=False)
    assert advice.learning_rate_scale < 1
    assert advice.rank_scale == 1.0


def test_collapse_outweighs_low_fidelity() -> None:
    advice = advise({**GOOD, "diversity": 0.2, "fidelity": 0.2}, {}, passed=False)
    assert advice.learning_rate_scale < 1


def test_low_alignment_asks_for_better_captions_whatever_else_is_wrong() -> None:
    advice = advise({**GOOD, "alignment": 0.1, "fidelity": 0.3}, {}, passed=False)
    assert advice.recaption
    assert advice.drop_alignment_percentile > 0
    assert advice.rank_scale > 1
    assert len(advice.reasons) == 2


def test_an_abstaining_alignment_advises_nothing() -> None:
    advice = advise({**GOOD, "alignment": None}, {}, passed=False)
    assert not advice.recaption
    assert advice.drop_alignment_percentile == 0


def test_missing_subjects_ask_for_better_captions_even_when_alignment_abstains() -> None:
    advice = advise({**GOOD, "alignment": None}, closed("shows_subjects"), passed=False)
    assert advice.recaption
    assert advice.drop_alignment_percentile > 0


@pytest.mark.parametrize(
    ("gate", "direction"),
    [("finite_weights", -1), ("no_blank_images", -1), ("keys_used", 0), ("effect", 1)],
)
def test_closed_gates(gate: str, direction: int) -> None:
    advice = advise({}, closed(gate), passed=False)
    assert (advice.learning_rate_scale > 1) - (advice.learning_rate_scale < 1) == direction
    assert advice.reasons


def test_a_near_miss_says_so() -> None:
    assert advise(GOOD, {}, passed=False).reasons == ("close to the threshold: train longer",)
