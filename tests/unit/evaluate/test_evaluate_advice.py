"""Advice: what each failure leads to."""

import pytest

from lora_factory.contracts.evaluation import Advice, HardGate, ItemAdvice
from lora_factory.contracts.training import TrainReport
from lora_factory.evaluate.advice import advise, best_share

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


def test_low_fidelity_that_still_improves_asks_for_more() -> None:
    advice = advise({**GOOD, "fidelity": 0.3}, {}, passed=False)
    assert advice.rank_scale > 1
    assert advice.steps_scale > 1
    assert "fidelity 0.30" in advice.reasons[0]


def test_low_fidelity_that_was_better_before_asks_for_less() -> None:
    advice = advise({**GOOD, "fidelity": 0.3}, {}, passed=False, best_share=0.5)
    assert advice.learning_rate_scale < 1
    assert (advice.rank_scale, advice.steps_scale, advice.weight_decay) == (1, 1, 0.1)
    assert "after 50% of the steps" in advice.reasons[0]


def test_low_typicality_alone_is_a_style_not_learned_enough() -> None:
    advice = advise({**GOOD, "typicality": 0.0}, {}, passed=False)
    assert advice.steps_scale > 1
    assert advice.reasons[0].startswith("typicality 0.00: the style is not learned enough")


def test_the_chosen_file_tells_when_the_lora_was_best() -> None:
    trained = TrainReport(
        base="b",
        trigger="t",
        rank=4,
        steps=320,
        best_step=320,
        train_loss=0.1,
        validation_loss_before=0.2,
        validation_loss=0.1,
        images_per_second=1,
        peak_memory_mb=1,
        checkpoints=("checkpoints/step-000080.safetensors",),
    )
    assert best_share("lora.safetensors", trained) == 1
    assert best_share("checkpoints/step-000080.safetensors", trained) == 0.25


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


def test_pictures_outside_the_style_are_no_collapse() -> None:
    """They count as no variety, and lowering the rate would teach the style less still."""
    advice = advise({**GOOD, "diversity": 0.7, "fidelity": 0.45}, {}, passed=False)
    assert advice.learning_rate_scale == 1
    assert advice.steps_scale == 1.5


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


def item(number: int, reason: str, **values: str) -> ItemAdvice:
    return ItemAdvice.model_validate(
        {"sha256": f"{number:064x}", "do": "drop", "reason": reason} | values
    )


def test_spoiled_data_comes_first_whatever_the_scores_say() -> None:
    """A LoRA trained harder on spoiled data is a worse one, and its anchors are spoiled too."""
    wrong = item(1, "caption_mismatch", do="recaption", text="red heart")
    strange = item(2, "off_style")
    scores = {**GOOD, "fidelity": 0.3}
    advice = advise(scores, {}, passed=False, items=(wrong, strange))
    assert set(advice.items) == {wrong, strange}
    # More of the same on what is left; neither rate nor rank.
    assert (advice.rank_scale, advice.learning_rate_scale, advice.steps_scale) == (1, 1, 1.5)
    assert (advice.drop_alignment_percentile, advice.recaption) == (0, False)
    assert len(advice.reasons) == 3


def test_a_few_copied_images_are_dropped_and_many_slow_the_training_down() -> None:
    few = advise(GOOD, closed("no_copies"), passed=False, copied=(item(3, "copied"),))
    assert [found.sha256 for found in few.items] == [f"{3:064x}"]
    assert (few.learning_rate_scale, few.weight_decay) == (1.0, 0.3)
    many = advise(GOOD, closed("no_copies"), passed=False)
    assert (many.items, many.weight_decay) == ((), 0.3)
    assert many.learning_rate_scale < 1


def test_drift_and_slowness_have_their_rules() -> None:
    advice = advise({**GOOD, "drift": 0.2, "efficiency": 0.4}, {}, passed=False)
    assert (advice.learning_rate_scale, advice.weight_decay, advice.rank_scale) == (0.7, 0.1, 0.5)
    assert len(advice.reasons) == 2


def test_the_third_attempt_goes_on_from_the_second() -> None:
    """Each attempt starts from the raw data and the tuner's values: advice must add up."""
    scores = {**GOOD, "fidelity": 0.3, "alignment": 0.3}
    named = Advice(items=(item(1, "off_style"),))
    first = advise(scores, {}, passed=False, followed=named)
    assert first.items == named.items
    second = advise(scores, {}, passed=False, followed=first)
    assert second.rank_scale == pytest.approx(first.rank_scale**2)
    assert second.drop_alignment_percentile == 2 * first.drop_alignment_percentile
    assert second.recaption
    third = advise(
        GOOD, closed("no_copies"), passed=False, items=(item(2, "off_style"),), followed=second
    )
    assert third.learning_rate_scale == pytest.approx(0.7 * second.learning_rate_scale)
    assert third.rank_scale == second.rank_scale
    assert [int(found.sha256, 16) for found in third.items] == [1, 2]


def test_scales_stay_within_the_contract() -> None:
    advice = Advice()
    for _ in range(8):
        advice = advise({}, closed("effect"), passed=False, followed=advice)
    assert (advice.rank_scale, advice.learning_rate_scale) == (4, 4)
    for _ in range(8):
        advice = advise({}, closed("finite_weights"), passed=False, followed=advice)
    assert advice.learning_rate_scale == 0.05


def test_a_pass_keeps_what_it_followed() -> None:
    followed = Advice(rank_scale=2, items=(item(1, "off_style"),))
    advice = advise(GOOD, {}, passed=True, followed=followed)
    assert (advice.rank_scale, advice.items) == (2, followed.items)
