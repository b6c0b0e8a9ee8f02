from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.specs import CrawlSpec
from lora_factory.crawl.boilerplate import is_ad
from lora_factory.crawl.extract import Page
from lora_factory.crawl.quality import (
    ad_ratio,
    fault,
    language,
    mean_word_length,
    repeated_lines,
    repeated_ngrams,
    word_entropy,
    words,
)

SPEC = CrawlSpec.model_validate({"topics": ["icons"], "as_of": "2026-11-24"})


def page(text: str, ads: int = 0) -> Page:
    return Page("", text, len(words(text)), ads, (), (), ())


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
    assert is_ad(f"left {name}")


@pytest.mark.parametrize("name", ["header", "shadow", "download", "gradient", "adder", "badge"])
def test_words_that_merely_hold_ad_are_not(name: str) -> None:
    assert not is_ad(f"left {name}")


def test_ad_ratio_is_elements_per_word() -> None:
    assert ad_ratio(3, 60) == pytest.approx(0.05)
    assert ad_ratio(2, 0) == 2.0


def test_languages() -> None:
    assert language(PROSE) == "en"
    assert language("Willkommen in unserer kleinen Sammlung gezeichneter Symbole") == "de"


def test_fault_names_the_first_thing_wrong() -> None:
    assert fault(page(PROSE), SPEC) is None
    lines = "\n".join([*PROSE.replace(". ", ", ").split(", "), *["Download"] * 9])
    runs = f"{PROSE} {PROSE}"
    long = " ".join(f"antidisestablishmentarianism{n}" for n in range(40))
    reasons = [
        fault(page("icons icons icons", 99), SPEC),
        fault(page("one two three"), SPEC.model_copy(update={"min_entropy": 0.0})),
        fault(page(long), SPEC),
        fault(page(lines), SPEC),
        fault(page(runs), SPEC),
        fault(page(PROSE, 40), SPEC),
        fault(page(PROSE), SPEC.model_copy(update={"languages": ("de", "fr")})),
    ]
    assert [found[0] for found in reasons if found] == [
        "low_entropy", "too_short", "word_length", "repetitive", "repetitive", "ads", "language"
    ]  # fmt: skip


def test_the_limits_themselves_do_not_pass() -> None:
    text = " ".join(f"word{n}" for n in range(32))  # exactly 5 bits
    assert fault(page(text), SPEC) is not None
    ten = "one two three four five six seven eight nine ten"
    lax = SPEC.model_copy(update={"min_entropy": 0.0, "min_words": 10})
    assert fault(page(ten, 1), lax) == ("ads", "0.100 ads a word, must stay below 0.1")


def test_ads_are_measured_against_the_whole_page() -> None:
    short = Page("", PROSE, 1000, 60, (), (), ())  # 60 ads a 1000 words, of which 55 are content
    assert fault(short, SPEC) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three four", 0.0),
        ("a b c d e", 0.0),
        ("a b c d e a b c d e", 0.5),
        ("a b c d e x a b c d e", 5 / 11),
        ("a b c d e f a b c d e f", 0.5),  # runs that overlap count once
        ("a " * 10, 0.9),  # every run after the first
    ],
)
def test_repeated_runs_have_known_shares(text: str, share: float) -> None:
    assert repeated_ngrams(words(text)) == pytest.approx(share)


@given(st.text(alphabet="ab \n", max_size=200))
def test_repetition_is_a_share(text: str) -> None:
    assert 0.0 <= repeated_ngrams(words(text)) <= 1.0
    assert 0.0 <= repeated_lines(text) < 1.0


def test_few_lines_are_no_repetition() -> None:
    assert repeated_lines("same\n" * 9) == 0.0
    assert repeated_lines("same\n" * 10) == pytest.approx(0.9)


def test_word_length_is_of_scripts_with_spaces() -> None:
    assert mean_word_length(words("ab abcd")) == 3.0
    assert mean_word_length(words("全自动训练")) == 0.0
    chinese = (
        "自动训练工厂从数据爬取到模型部署的流水线本文提出了一套系统通过智能爬虫架构实现多源采集"
    )
    assert fault(page(chinese), SPEC.model_copy(update={"languages": ("zh",)})) is None
