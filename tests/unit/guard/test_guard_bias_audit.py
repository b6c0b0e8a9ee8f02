from __future__ import annotations

import numpy as np
import pytest
from bias_toy import ToyWorld, neutral

from lora_factory.contracts.ethics import AttributeAudit, BiasAudit
from lora_factory.guard.bias.association import (
    audit_side,
    match_shift,
    parity_shift,
    share_shift,
    wilson,
)
from lora_factory.guard.bias.attributes import vocabulary
from lora_factory.guard.bias.audit import FEWEST_PICTURES, run_bias_audit
from lora_factory.guard.bias.reading import check_reader, fit_reader


def feminine(person: str) -> tuple[float, float, float]:
    """A LoRA that draws every neutral person as a woman."""
    named = any(word in person.split() for word in ("woman", "man"))
    return (0.0 if named else 0.3, 0.0, 0.0)


def stereotyped(person: str) -> tuple[float, float, float]:
    """A LoRA that draws some persons as women and the others as men: parity, but association."""
    named = any(word in person.split() for word in ("woman", "man"))
    soft = any(word in person for word in ("nurse", "kind", "teacher", "cook", "poor"))
    return (0.0 if named else 0.3 if soft else -0.3, 0.0, 0.0)


def audited(world: ToyWorld, pictures: int = 400) -> BiasAudit:
    return run_bias_audit(world.look, world.embed_texts, pictures, 7)


def attribute(audit: BiasAudit, name: str) -> AttributeAudit:
    return next(one for one in audit.attributes if one.attribute == name)


def test_wilson_pinned() -> None:
    """Newcombe 1998, table I: 81 of 263 → 0.2553 to 0.3662; 0 of 20 → 0 to 0.1611."""
    share = wilson(81, 263)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    assert round(wilson(0, 20).high, 4) == 0.1611
    assert wilson(0, 0).low == 0.0
    assert wilson(0, 0).high == 1.0


def test_a_biased_lora_is_found_and_mitigated() -> None:
    world = ToyWorld({"base": neutral, "lora": feminine})
    audit = audited(world)
    assert audit.state == "measured"
    gender = attribute(audit, "gender_presentation")
    assert gender.shift is not None
    assert gender.worse is not None
    assert gender.shift.low > 0.2  # the base is at ½, the LoRA at 1
    assert gender.worse.low > 0.2
    assert gender.lean_shift is not None
    assert gender.lean_shift.low > 0.2
    assert gender.lean_mitigated is not None
    assert gender.lean_mitigated.high < -0.2
    tried = gender.mitigation
    assert tried is not None
    assert tried.share_before.value > 0.95
    assert 0.3 < tried.share_after.value < 0.7
    assert tried.change is not None
    assert tried.change.high < 0
    assert tried.alignment is not None
    assert tried.non_inferior
    assert tried.recommended
    # What was not biased is not called so.
    age = attribute(audit, "age")
    assert age.worse is not None
    assert age.worse.low <= 0


def test_association_without_a_shift_of_the_whole() -> None:
    world = ToyWorld({"base": neutral, "lora": stereotyped})
    gender = attribute(audited(world), "gender_presentation")
    base, lora = gender.sides
    assert lora.association is not None
    assert lora.association_p is not None
    assert lora.association.value == pytest.approx(1.0, abs=0.1)
    assert lora.association_p < 0.01
    assert base.association_p is not None
    assert base.association_p > 0.01


def test_a_fair_lora_is_not_accused() -> None:
    found = [
        attribute(audited(ToyWorld({"base": neutral, "lora": neutral}), n), name)
        for n in (120, 400)
        for name in ("gender_presentation", "age", "skin_tone")
    ]
    for one in found:
        assert one.state == "measured"
        assert one.worse is not None
        assert one.worse.low <= 0 <= one.worse.high
        assert one.lean_shift is not None
        assert one.lean_shift.low <= 0.1
        assert one.mitigation is not None
        assert not one.mitigation.recommended


def test_abstains_where_the_scorer_is_blind() -> None:
    world = ToyWorld({"base": neutral, "lora": neutral}, blind=frozenset({0}))
    gender = attribute(audited(world), "gender_presentation")
    assert gender.state == "abstains"
    assert "abstains" in gender.note
    assert not gender.checks[-1].passed
    assert gender.sides == ()
    assert gender.mitigation is None


def test_blind_everywhere_costs_explicit_pictures_only() -> None:
    world = ToyWorld({"base": neutral, "lora": neutral}, blind=frozenset({0, 1, 2}))
    audit = audited(world, FEWEST_PICTURES)
    assert audit.state == "abstains"
    assert "nothing is known" in audit.note
    assert world.made["base"] == 18
    assert "mitigated" not in world.made


@pytest.mark.parametrize("pictures", [FEWEST_PICTURES, 56, 64, 200, 1000])
def test_never_more_pictures_than_allowed(pictures: int) -> None:
    world = ToyWorld({"base": neutral, "lora": neutral})
    audit = audited(world, pictures)
    assert audit.pictures == sum(world.made.values()) <= pictures
    assert audit.prompts
    assert audit.limits


@pytest.mark.parametrize("pictures", [0, FEWEST_PICTURES - 1])
def test_off_is_not_audited_never_fair(pictures: int) -> None:
    audit = audited(ToyWorld({}), pictures)
    assert audit.state == "not_audited"
    assert audit.attributes == ()
    assert "nothing is known" in audit.note


def test_the_words_name_what_they_should() -> None:
    words = vocabulary()
    for one in words.attributes:
        for person in (*one.people, *(prompt for pair in one.pairs for prompt in pair)):
            assert one.named_in(person), person
        for person in words.neutral:
            assert not one.named_in(person), person


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("A WOMAN at work", True),
        ("portrait of two women", True),
        ("wоman", True),  # Cyrillic о
        ("a human being", False),
        ("a manager", False),
        ("the mandolin player", False),
        ("grandfather clock", True),  # errs towards leaving the prompt alone
    ],
)
def test_named_in(prompt: str, named: bool) -> None:
    gender = vocabulary().attributes[0]
    assert gender.named_in(prompt) is named


def test_reader_has_a_band_where_groups_are_narrow() -> None:
    reader = fit_reader(np.array([1.0, 1.1, 0.9, 1.0]), np.array([-1.0, -0.9, -1.1, -1.0]))
    labels = reader.read(np.array([1.0, 0.5, 0.1, -0.1, -1.0]))
    assert labels.tolist() == [1, 0, 0, 0, -1]


def test_reader_is_the_middle_where_groups_are_wide() -> None:
    rng = np.random.default_rng(0)
    reader = fit_reader(rng.normal(1, 2, 50), rng.normal(-1, 2, 50))
    assert reader.first == reader.second


def test_a_leaning_scorer_passes_and_a_reversed_one_fails() -> None:
    high, low = np.array([5.0, 5.2, 5.1, 5.3]), np.array([4.0, 4.1, 4.2, 4.05])
    assert check_reader("base", high, low).passed
    assert check_reader("base", low, high).accuracy.count == 0


def test_intervals_of_few_agreeing_pictures_have_width() -> None:
    before = np.array([[1, 1, 1], [1, 1, 1]])
    rng = np.random.default_rng(1)
    side = audit_side("base", before, ["a", "b"], rng)
    assert side.parity is not None
    assert side.parity.low < 0.2  # 6 of 6: Wilson from 0.61
    shift = share_shift(before, -before, rng)
    assert shift is not None
    assert shift.value == -1
    assert shift.high > -1
    same = parity_shift(before, -before, rng)  # as far from ½, on the other side
    assert same is not None
    assert same.low < 0 < same.high


def test_undetermined_pictures_count_to_neither() -> None:
    labels = np.array([[1, 0, 0], [0, 0, -1]])
    side = audit_side("lora", labels, ["a", "b"], np.random.default_rng(0))
    assert (side.share.count, side.share.n, side.undetermined) == (1, 2, 4)
    nothing = audit_side("lora", np.zeros((2, 3), dtype=int), ["a", "b"], np.random.default_rng(0))
    assert nothing.parity is None
    assert share_shift(labels, np.zeros((2, 3), dtype=int), np.random.default_rng(0)) is None


def test_match_shift_abstains_without_a_match() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (6, 3))
    assert match_shift(noise - noise.mean(), noise, rng) is None
    kept = match_shift(np.full((6, 3), 0.4), np.full((6, 3), 0.3), rng)
    assert kept is not None
    assert kept.value == pytest.approx(-0.25)
