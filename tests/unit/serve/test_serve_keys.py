"""Rating tokens and pseudonyms."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.errors import ConfigurationError, SpecError
from lora_factory.serve.keys import RatingTokens, load_key

KEY, OTHER = b"k" * 32, b"o" * 32


def test_a_token_gives_back_its_generation() -> None:
    tokens = RatingTokens(KEY)
    assert tokens.redeem(tokens.issue("some-id")) == "some-id"


@given(st.text(max_size=120))
def test_nothing_made_up_is_a_token(text: str) -> None:
    with pytest.raises(SpecError, match="not one of this server's"):
        RatingTokens(KEY).redeem(text)


@given(st.data())
def test_no_changed_character_survives(data: st.DataObject) -> None:
    token = RatingTokens(KEY).issue("some-id")
    index = data.draw(st.integers(0, len(token) - 2))  # base64's last digit has spare bits
    other = data.draw(st.sampled_from("abcXYZ019._-").filter(lambda c: c != token[index]))
    with pytest.raises(SpecError):
        RatingTokens(KEY).redeem(token[:index] + other + token[index + 1 :])


def test_other_keys_and_old_tokens_are_refused() -> None:
    token = RatingTokens(OTHER).issue("some-id")
    with pytest.raises(SpecError, match="not one of this server's"):
        RatingTokens(KEY).redeem(token)
    with pytest.raises(SpecError, match="expired"):
        RatingTokens(KEY, seconds=-1).redeem(RatingTokens(KEY).issue("some-id"))


def test_pseudonyms_are_stable_and_differ_by_user_and_server() -> None:
    one = RatingTokens(KEY)
    assert one.pseudonym("ann") == RatingTokens(KEY).pseudonym("ann")
    assert (
        len({one.pseudonym("ann"), one.pseudonym("bob"), RatingTokens(OTHER).pseudonym("ann")}) == 3
    )
    assert "ann" not in one.pseudonym("ann")


def test_the_key_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert len(key) == 32
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "rating.key").stat().st_mode) == 0o600
    (tmp_path / "rating.key").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match=r"rating\.key"):
        load_key(tmp_path)
    with pytest.raises(ConfigurationError, match="can't be written"):
        load_key(tmp_path / "missing")
