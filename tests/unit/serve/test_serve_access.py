"""Who is let through, and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.registry import ApiKey
from lora_factory.serve.access import Access, Bucket, Caller, Denied
from lora_factory.store.catalog import Catalog

KEY = ApiKey(
    id="0123456789ab",
    name="shop",
    scopes=("generate",),
    per_minute=3,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Keys:
    """A catalog that knows one key; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.key: ApiKey | None = KEY

    def api_key(self, key: str) -> ApiKey | None:
        self.asked += 1
        return self.key if key == "lf_0123456789ab_secret" else None


def access(token: str = "operator-key", public: int = 0) -> tuple[Access, Keys]:
    keys = Keys()
    return Access(cast("Catalog", keys), token, public), keys


def status(call: object) -> int:
    assert callable(call)
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.status


@pytest.mark.parametrize(
    "header",
    [
        *("Bearer kex", "Basic operator-key", "operator-key", "Bearer operator-key x"),
        *("Bearer", "Bearer  "),
        *("Bearer ключ", "Bearer lf_0123456789ab_", "Bearer \ud800"),
    ],
)
def test_anything_but_a_key_is_refused_even_where_none_is_needed(header: str) -> None:
    for public in (0, 60):
        assert status(lambda: access(public=public)[0].caller(header, "::1")) == 401  # noqa: B023


@pytest.mark.parametrize("header", [None, ""])
def test_without_a_key_only_a_public_app_serves(header: str | None) -> None:
    assert status(lambda: access()[0].caller(header, "::1")) == 401
    caller = access(public=60)[0].caller(header, "::1")
    assert caller.anonymous
    assert not caller.may("admin")
    assert caller.id == "anybody ::1"


def test_no_operator_where_no_token_is_set() -> None:
    assert status(lambda: access(token="")[0].caller("Bearer ", "::1")) == 401


def test_the_operator_may_do_everything() -> None:
    caller = access()[0].caller("bearer operator-key", "::1")
    assert all(caller.may(scope) for scope in ("generate", "feedback", "admin"))


def test_a_key_may_what_its_scopes_say() -> None:
    gate, _ = access()
    caller = gate.caller("Bearer lf_0123456789ab_secret", "::1")
    gate.admit(caller, "generate")
    assert status(lambda: gate.admit(caller, "feedback")) == 403
    anybody = access(public=9)[0].caller(None, "::1")
    assert status(lambda: gate.admit(anybody, "admin")) == 401


def test_a_key_is_looked_up_again_soon_so_that_a_revoked_one_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, keys = access()
    now = 1000.0
    monkeypatch.setattr("lora_factory.serve.access.time.monotonic", lambda: now)
    for _ in range(5):
        gate.caller("Bearer lf_0123456789ab_secret", "::1")
    assert keys.asked == 1
    keys.key, now = None, now + 6
    assert status(lambda: gate.caller("Bearer lf_0123456789ab_secret", "::1")) == 401


def test_who_asks_too_often_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, _ = access()
    now = 1000.0
    monkeypatch.setattr("lora_factory.serve.access.time.monotonic", lambda: now)
    caller = gate.caller("Bearer lf_0123456789ab_secret", "::1")
    for _ in range(3):
        gate.admit(caller, "generate")
    with pytest.raises(Denied) as caught:
        gate.admit(caller, "generate")
    assert (caught.value.status, caught.value.retry_after) == (429, 20)
    other = Caller("another", caller.scopes, 3)
    gate.admit(other, "generate")  # has a bucket of its own
    now += 20
    gate.admit(caller, "generate")


@given(
    rate=st.integers(1, 600),
    waits=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=80),
)
def test_a_bucket_never_lets_more_through_than_burst_and_rate(
    rate: int, waits: list[float]
) -> None:
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for wait in waits:
        now += wait
        left = bucket.take(now)
        passed += not left
        if left:  # and it opens when it said so
            now += left + 1e-6
            assert bucket.take(now) == 0
            passed += 1
    assert passed <= rate + now * rate / 60 + 1
