"""The copyright check: what the numbers say, and what they can't rule out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from lora_factory.contracts.copyright import CopyrightCheck
from lora_factory.guard.copying import Cuts, Nearest
from lora_factory.guard.copyright import chance_of, copyright_check, upper_bound

CUTS = Cuts(0.99, 0.9, 8, 14, 200)


def near(similarity: float, *, copied: bool = False, verbatim: bool = False) -> Nearest:
    return Nearest(0, similarity, 3, copied, verbatim, plain=similarity > 0.9)


def check(found: list[Nearest], policy: str = "block", cuts: Cuts = CUTS) -> CopyrightCheck:
    files = [f"{number:04d}.png" for number in range(len(found))]
    return copyright_check(found, files, ["work"], cuts, against="protected", policy=policy)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "bound"), [(64, 0.046), (300, 0.010), (1000, 0.003)])
def test_no_hit_bounds_the_rate(n: int, bound: float) -> None:
    """The figures of the reference: 1 - 0.05^(1/n)."""
    assert upper_bound(0, n) == pytest.approx(bound, abs=0.0005)
    assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n))


def test_at_the_bound_so_few_hits_have_a_chance_of_one_in_twenty() -> None:
    """What Clopper–Pearson means, by the other road: the binomial tail."""
    for hits, n in ((3, 20), (1, 24), (10, 11)):
        assert binom.cdf(hits, n, upper_bound(hits, n)) == pytest.approx(0.05)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_bound_is_above_the_rate(hits: int, more: int) -> None:
    n = hits + more
    assert (hits / n if n else 0) <= upper_bound(hits, n) <= 1


def test_both_rules_are_counted() -> None:
    found = [near(0.95)] * 20 + [near(0.5)] * 9 + [near(0.97, copied=True)]
    result = check(found)
    assert (result.n, result.plain_hits, result.calibrated_hits) == (30, 21, 1)
    assert result.plain_high > 0.7
    assert result.worst[0].copied
    assert len(result.worst) == 8


def test_few_hits_may_be_chance_and_many_are_not() -> None:
    fine, hit = near(0.5), near(0.97, copied=True)
    assert check([fine] * 24).passed
    assert check([fine] * 22 + [hit] * 1).passed  # P(≥ 1 of 23) = 0.37 at 2%
    assert not check([fine] * 21 + [hit] * 3).passed  # P(≥ 3 of 24) = 0.01
    assert chance_of(3, 24, 0.02) == pytest.approx(0.0115, abs=0.001)


def test_one_verbatim_hit_closes_the_gate() -> None:
    found = [near(0.5)] * 500 + [near(0.999, copied=True, verbatim=True)]
    assert not check(found).passed
    assert check(found, policy="flag").passed


def test_few_originals_allow_more_chance() -> None:
    few = Cuts(0.99, 0.9, 8, 14, 20)
    assert few.chance == pytest.approx(2 / 21)
    assert check([near(0.5)] * 21 + [near(0.97, copied=True)] * 3, cuts=few).passed


def test_no_picture_is_no_evidence() -> None:
    result = check([])
    assert result.calibrated_high == 1.0
    assert not result.passed


def test_more_hits_than_pictures_are_refused() -> None:
    values = check([near(0.5)]).model_dump() | {"plain_hits": 2}
    with pytest.raises(ValidationError, match="more hits"):
        CopyrightCheck.model_validate(values)
