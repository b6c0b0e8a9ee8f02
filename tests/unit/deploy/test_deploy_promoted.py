"""Which version a rollback returns to, and names of services."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.deploy.releases import REMEMBERED, Promoted
from lora_factory.deploy.revisions import service_name

A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"
VERSIONS = st.sampled_from([A, B, C])
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


def test_the_way_back_is_what_was_live_before() -> None:
    past = Promoted().then(None, A).then(A, B)
    assert (past.versions, past.before(B), past.before(A)) == ((A, B), A, None)
    assert past.then(B, B) == past  # the same promotion, repeated
    again = past.then(B, A)  # a version that comes back
    assert (again.versions, again.before(A), again.until(B)) == ((A, B, A), B, past)
    assert past.then(A, C).versions == (A, C)  # B was rolled back, or never got there
    assert Promoted(versions=(A,)).then(C, B).versions == (
        C,
        B,
    )  # the cloud itself says what is live


@given(st.lists(VERSIONS, max_size=60))
def test_it_never_grows_and_never_returns_to_the_version_itself(promoted: list[str]) -> None:
    past, live = Promoted(), None
    for version in promoted:
        past, live = past.then(live, version), version
        assert past.versions[-1] == version
        assert past.before(version) != version
        assert len(past.versions) <= REMEMBERED


@given(NAMES, st.sampled_from([30, 32, 40, 64]))
def test_a_services_name_fits_every_cloud(adapter: str, limit: int) -> None:
    name = service_name("lora-factory", adapter, limit)
    assert len(name) <= limit
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("food_icons", "food-icons"), ("x" * 62, "x" * 63), ("icons-", "icons"), ("a__b", "a_b")],
)
def test_different_adapters_never_share_a_service(one: str, other: str) -> None:
    for limit in (30, 64):
        assert service_name("lora-factory", one, limit) != service_name(
            "lora-factory", other, limit
        )


@given(NAMES, NAMES)
def test_nor_do_any_two(one: str, other: str) -> None:
    if one != other:
        assert service_name("f", one, 32) != service_name("f", other, 32)
