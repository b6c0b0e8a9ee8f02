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


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    once = spelled(text)
    assert len(once.split()) == len(text.split())
