"""Captions: what a found text says of the picture, and the template."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.records import CleanRecord, Labels
from lora_factory.label.captions import (
    MAX_WORDS,
    caption,
    compose_subject,
    is_poor,
    subject_of,
    theme_phrase,
)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Red apple", "red apple"),
        ("Icon of a red apple.", "red apple"),
        ("An emoji icon of the hot dog!", "hot dog"),
        ("red apple icon", "red apple"),
        ("Red apple in the style of Picasso", "red apple"),
        ("a lion drawn in a flat line style, by somebody", "lion"),
        ("Red apple | The Outline Gallery", "red apple"),
        ("Red apple - Free icons", "red apple"),
        ("a close-up of an old clock", "old clock"),
        ("Photo of Jack-in-the-box", "jack-in-the-box"),
        ("see https://a.test/x.png red apple", "see red apple"),
        ("zuvok style, red apple", "red apple"),
        ("red apple, zuvok style", "red apple"),
        ("The dog trots along. Its tail is raised.", "dog trots along"),
        ("<b>Crème brûlée</b>", "b crème brûlée /b"),
        ("icon", "icon"),
        ("  \x00\n ", ""),
        ("...", ""),
        ("café\u0301 au lait", "café\u0301 au lait"),
    ],
)
def test_subject(text: str, subject: str) -> None:
    assert subject_of(text, "zuvok") == subject


def test_long_texts_end_at_a_clause() -> None:
    text = "a brown dog that runs over the wide green field, chasing a ball that somebody threw"
    assert subject_of(text) == "brown dog that runs over the wide green field"
    assert len(subject_of("word " * 50).split()) == MAX_WORDS


@given(st.text(max_size=400))
def test_any_text_gives_a_short_plain_subject(text: str) -> None:
    subject = subject_of(text, "zuvok")
    assert len(subject.split()) <= MAX_WORDS
    assert subject == subject.strip()
    assert not set(subject) & set("<>{}|\n\x00")


@given(st.text(alphabet="abc of icon the,.|-", max_size=80))
def test_cleaning_a_subject_again_changes_nothing(text: str) -> None:
    once = subject_of(text)
    assert subject_of(once) == once


@pytest.mark.parametrize("unit", ["a ", "icon of ", "in the ", "- ", "the style ", "<|"])
def test_hostile_length_is_no_problem(unit: str) -> None:
    subject_of(unit * 2000)


def test_caption_is_the_template_the_demo_asks_with() -> None:
    assert caption("zuvok", "red apple") == "red apple, zuvok style"


def test_composed_subjects_use_keywords_and_the_narrowest_theme() -> None:
    labels = Labels(theme=("fruit", "food"), keywords=("red", "apple", "leaf", "stem"))
    assert compose_subject(labels, "icons") == "red, apple, leaf, fruit"
    sea = Labels(theme=("sea animals", "animals"), keywords=("animals", "sea"))
    assert compose_subject(sea, "icons") == "sea animals"
    assert compose_subject(Labels(), "icons") == "icons"


def test_theme_phrase() -> None:
    assert theme_phrase(["animals", "food", "plants"]) == "animals and food"
    assert theme_phrase([]) == ""


def record(source: str, alignment: float | None) -> CleanRecord:
    return CleanRecord.model_validate({
        "sha256": "a",
        "file_name": "a.png",
        "url": "u",
        "text": "t",
        "text_source": source,
        "alignment": alignment,
        "licence": "MIT",
        "width": 9,
        "height": 9,
    })


def test_poor_texts() -> None:
    assert is_poor(record("nearby", 0.9), "dog", None)
    assert is_poor(record("alt", 0.9), "", None)
    assert is_poor(record("alt", 0.1), "dog", 0.2)
    assert not is_poor(record("alt", 0.1), "dog", None)
    assert not is_poor(record("alt", 0.3), "dog", 0.2)
    assert not is_poor(record("alt", None), "dog", 0.2)
