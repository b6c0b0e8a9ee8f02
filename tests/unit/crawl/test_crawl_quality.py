from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl.quality import Limits, ad_ratio, fault, is_ad, language, word_entropy, words

LIMITS = Limits(5.0, 0.1, ("en",))
PROSE = (
    "Every transaction of a business is recorded twice, once as a debit and once as a credit, so "
    "that the sum of all ledgers remains balanced. A purchase on credit increases inventory and "
    "liabilities by equal amounts; paying the invoice later reduces cash together with what is "
    "owed to suppliers, which auditors trust."
)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0.0),
        ("word word word", 0.0),
        ("heads tails", 1.0),
        ("a b c d e f g h", 3.0),
        ("a a b c", 1.5),  # 1/2, 1/4, 1/4
        ("Soon soon SOON later", 0.8112781244591328),  # 3/4, 1/4
        (" ".join(f"w{n}" for n in range(32)), 5.0),
    ],
)
def test_word_entropy_has_known_values(text: str, bits: float) -> None:
    assert word_entropy(words(text)) == pytest.approx(bits, abs=1e-12)


def test_character_entropy_of_english_never_reaches_the_articles_limit() -> None:
    letters = [char for char in PROSE.lower() if char.isalpha()]
    assert word_entropy(letters) < 4.3  # why the article's number is used on words
    assert word_entropy(words(PROSE)) > 5.0


@given(st.text())
def test_entropy_lies_between_zero_and_log_of_length(text: str) -> None:
    found = words(text)
    assert 0.0 <= word_entropy(found) <= math.log2(max(len(found), 1)) + 1e-9


def test_scripts_without_spaces_are_counted_by_character() -> None:
    assert words("全自动LoRA训练") == ["全", "自", "动", "lora", "训", "练"]
    assert words("don't stop-here") == ["don't", "stop", "here"]


@pytest.mark.parametrize("name", ["ad", "ads", "AD-slot", "top_banner", "sponsored", "x-advert"])
def test_words_for_advertisements_are_found(name: str) -> None:
    assert is_ad([name])


@pytest.mark.parametrize("name", ["header", "shadow", "download", "gradient", "adder", "badge"])
def test_words_that_merely_hold_ad_are_not(name: str) -> None:
    assert not is_ad([name])


def test_ad_ratio_is_elements_per_word() -> None:
    assert ad_ratio(3, 60) == pytest.approx(0.05)
    assert ad_ratio(2, 0) == 2.0


def test_languages() -> None:
    assert language(PROSE) == "en"
    assert language("Willkommen in unserer kleinen Sammlung gezeichneter Symbole") == "de"


def test_fault_names_the_first_thing_wrong() -> None:
    assert fault(PROSE, 0, LIMITS) is None
    reasons = [
        fault("icons icons icons", 99, LIMITS),
        fault(PROSE, 40, LIMITS),
        fault(PROSE, 0, Limits(5.0, 0.1, ("de", "fr"))),
    ]
    assert [found[0] for found in reasons if found] == ["low_entropy", "ads", "language"]


def test_the_limits_themselves_do_not_pass() -> None:
    text = " ".join(f"word{n}" for n in range(32))  # exactly 5 bits
    assert fault(text, 0, LIMITS) is not None
    ten = "one two three four five six seven eight nine ten"
    assert fault(ten, 1, Limits(0.0, 0.1, ("en",))) == (
        "ads", "0.100 ads a word, must stay below 0.1"
    )  # fmt: skip
