"""The trigger word, checked with the embedded base's real tokenizer."""

from __future__ import annotations

import re

import pytest

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, SpecError
from lora_factory.label.taxonomy import load_taxonomy
from lora_factory.label.trigger import (
    check_trigger,
    common_words,
    load_tokenizers,
    make_trigger,
)
from lora_factory.models.profiles import load_profile
from lora_factory.models.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return load_tokenizers(load_profile("embedded", Settings()))


def test_every_base_is_asked(tokenizers: dict[str, Tokenizer]) -> None:
    assert set(tokenizers) == set(load_profile("embedded", Settings()).bases)


def test_made_triggers_are_pronounceable_and_new(tokenizers: dict[str, Tokenizer]) -> None:
    words = common_words(load_taxonomy())
    made = [make_trigger(["emoji icons"], [str(n)], tokenizers, words) for n in range(50)]
    assert len(set(made)) > 45
    for trigger in made:
        assert re.fullmatch(r"([b-z][aeiou]){2}[b-z]", trigger)
        check_trigger(trigger, tokenizers, words)


def test_made_triggers_follow_topics_and_content(tokenizers: dict[str, Tokenizer]) -> None:
    def made(topic: str, *items: str) -> str:
        return make_trigger([topic], items, tokenizers, set())

    assert made("icons", "a", "b") == made("icons", "b", "a")
    assert made("icons", "a", "b") != made("icons", "a", "c")
    assert made("icons", "a", "b") != made("cats", "a", "b")


def test_words_that_are_taken_are_passed_over(tokenizers: dict[str, Tokenizer]) -> None:
    first = make_trigger(["icons"], ["a"], tokenizers, set())
    assert make_trigger(["icons"], ["a"], tokenizers, {first}) != first


@pytest.mark.parametrize("trigger", ["dog", "fruit", "q", "7", "red"])
def test_single_tokens_are_refused_by_name(trigger: str, tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(SpecError, match=f"trigger '{trigger}' is a single token of base 'emoji'"):
        check_trigger(trigger, tokenizers, set())


@pytest.mark.parametrize("trigger", ["the", "style", "icon", "watercolor", "weather"])
def test_common_words_are_refused(trigger: str, tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(SpecError, match=f"trigger '{trigger}' is a common word"):
        check_trigger(trigger, tokenizers, common_words(load_taxonomy()))


@pytest.mark.parametrize("trigger", ["hcxq", "zuvok", "my-style-7"])
def test_made_up_words_pass(trigger: str, tokenizers: dict[str, Tokenizer]) -> None:
    check_trigger(trigger, tokenizers, common_words(load_taxonomy()))


class OneToken:
    """A tokenizer that knows every word."""

    def tokenize(self, text: str) -> list[str]:
        return [text]


def test_one_base_of_several_that_knows_the_word_is_enough(
    tokenizers: dict[str, Tokenizer],
) -> None:
    with pytest.raises(SpecError, match="'zuvok' is a single token of base 'odd'"):
        check_trigger("zuvok", {**tokenizers, "odd": OneToken()}, set())


def test_a_tokenizer_that_knows_everything_ends_the_search() -> None:
    with pytest.raises(ConfigurationError, match="no free trigger"):
        make_trigger(["icons"], ["a"], {"odd": OneToken()}, set())
