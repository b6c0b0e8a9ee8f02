"""Misprints in English prose are mended; names, topics and other languages stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.records import RawRecord
from lora_factory.sanitize.captions import found_caption
from lora_factory.sanitize.spelling import spelled, words_of


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("an oil painitng of the harbour", "an oil painting of the harbour"),
        ("A beatiful garden behind the house", "A beautiful garden behind the house"),
        ("an arangement of white lilies, on a table", "an arrangement of white lilies, on a table"),
    ],
)
def test_misprints_in_prose(text: str, mended: str) -> None:
    assert spelled(text) == mended
    assert spelled(mended) == mended


@pytest.mark.parametrize(
    "text",
    [
        "red appel",  # no sentence: it may be a name
        "the great wave by Katsushika Hokusia in spring",  # a capital
        "a ukiyoe print of the wave off kanagawa",
        "the tanukis and corgis play near a shinkansen station",
        "Ein schöner Garten mit vielen Blumen und einem Hauss",
        "un beau jardin avec beaucoup de fleurs",
        "a flowrs or two beside the house",  # flowers? flows?
        "the anesthetic and the theater in the neighborhood",  # not British
        "a microscope view of the edema in the small house",  # another letter is another word
        "the serpente and the imperiale house of the king",  # another ending, another language
        "红苹果 on the table of the house",
        "",
        "!!! 123 ...",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert spelled(text) == text


def test_topics_are_right_as_they_are() -> None:
    text = "an oil painitng of the harbour"
    assert spelled(text, words_of(["Painitng school"])) == text


def raw(**fields: object) -> RawRecord:
    return RawRecord.model_validate({
        "sha256": "0",
        "file_name": "a.png",
        "url": "u",
        "width": 1,
        "height": 1,
        **fields,
    })


def test_a_caption_says_that_it_was_mended() -> None:
    caption = found_caption(raw(alt="an oil painitng of the harbour"))
    assert caption is not None
    assert (caption.text, caption.steps) == ("an oil painting of the harbour", ("spelling",))
    named = raw(alt="an oil painitng of the harbour", topics={"painitng": 1.0})
    untouched = found_caption(named)
    assert untouched is not None
    assert untouched.steps == ()


SENTENCE = "a painting of the old harbour in the morning with boats and people"
PROSE = SENTENCE.split()
MISPRINT = "arrangment"
PLACES = st.integers(0, len(PROSE))


def within(words: list[str], place: int) -> tuple[str, str]:
    """English prose with a misprint and these words in it, before and after."""
    sentence = [*PROSE[:place], *words, *PROSE[place:], MISPRINT]
    return " ".join(sentence), " ".join([*sentence[:-1], "arrangement"])


@given(st.lists(st.from_regex(r"[A-Z][a-z]{2,12}", fullmatch=True), max_size=4), PLACES)
def test_names_stay_though_the_prose_around_them_is_mended(names: list[str], place: int) -> None:
    text, mended = within(names, place)
    assert spelled(text) in {text, mended}  # many names: no English prose


@given(st.lists(st.from_regex(r"[a-z]{2,12}", fullmatch=True), min_size=1, max_size=4), PLACES)
def test_words_of_topics_stay_whatever_they_are(topics: list[str], place: int) -> None:
    text, mended = within(topics, place)
    assert spelled(text, words_of([" ".join(topics)])) in {text, mended}


@given(st.lists(st.text("äöüßéèçñøåžłαβγжщя", min_size=3, max_size=12), max_size=3), PLACES)
def test_other_alphabets_stay(words: list[str], place: int) -> None:
    text, mended = within(words, place)
    assert spelled(text) in {text, mended}


@pytest.mark.parametrize(
    "text",
    [
        "der alte leuchtturm steht auf einem felsen im sturm und die wellen schlagen hoch",
        "une femme tient un panier de fruits devant la fenetre de la cuisine",
        "el pescador vuelve al puerto con su barca llena de sardinas",
        "il contadino raccoglie le olive mentre il sole tramonta dietro la collina",
        "de molen staat aan het water en de boer loopt over de dijk naar huis",
        "um gato preto dorme sobre a cadeira perto da janela",
    ],
)
def test_prose_in_other_languages_stays(text: str) -> None:
    assert spelled(text) == text


@given(st.lists(st.from_regex(r"[a-z]{3,14}", fullmatch=True), max_size=4), PLACES)
def test_what_is_changed_is_a_slip_inside_a_long_word(words: list[str], place: int) -> None:
    text, _ = within(words, place)
    for before, after in zip(text.split(), spelled(text).split(), strict=True):
        if before != after:
            assert len(before) >= 8
            assert before[0] == after[0]
            assert before[-1] == after[-1]
            assert abs(len(before) - len(after)) <= 1


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    once = spelled(text)
    assert len(once.split()) == len(text.split())
