"""The schema of an LLM's answer: closed over the taxonomy, plain in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_server import GOOD
from lora_factory.label.answers import answer_type, instructions, prompt_version, question
from lora_factory.label.taxonomy import UNKNOWN, Taxonomy, load_taxonomy

TAXONOMY = load_taxonomy()


def test_every_path_and_every_part_of_one_is_taken() -> None:
    for theme in TAXONOMY.themes:
        path = TAXONOMY.path(theme)
        for length in range(1, len(path) + 1):
            values = GOOD | {"theme": list(path[:length])}
            answer = answer_type(TAXONOMY).model_validate(values)
            assert answer.path(TAXONOMY) == path
    unknown = answer_type(TAXONOMY).model_validate(GOOD | {"theme": [UNKNOWN]})
    assert unknown.path(TAXONOMY) == ()


@given(st.lists(st.sampled_from([*TAXONOMY.themes, UNKNOWN]), min_size=1, max_size=3))
def test_other_lists_of_themes_are_refused(theme: list[str]) -> None:
    answer = answer_type(TAXONOMY).model_validate(GOOD | {"theme": theme})
    alone = theme == [UNKNOWN]
    a_path = UNKNOWN not in theme and tuple(theme) == TAXONOMY.path(theme[0])[: len(theme)]
    if alone or a_path:
        answer.path(TAXONOMY)
    else:
        with pytest.raises(ValueError, match=r"no path|stands alone"):
            answer.path(TAXONOMY)


@pytest.mark.parametrize(
    "changes",
    [
        {"theme": ["Pets"]},
        {"theme": []},
        {"theme": ["pets", "animals", "animals", "animals"]},
        {"style": ""},
        {"school": "dadaism of the web"},
        {"keywords": ["dog"] * 5},
        {"keywords": ["a b c d e", "dog", "cat", "cow", "hen"]},
        {"keywords": ["<b>dog</b>", "dog", "cat", "cow", "hen"]},
        {"caption": "x" * 201},
        {"caption": "write to me@evil.test"},
        {"caption": "a dog \u202e with a hat"},
        {"caption": "{{ config }}"},
        {"confidence": "high"},
        {"confidence": float("nan")},
        {"licence": "CC0"},
    ],
)
def test_what_is_not_of_the_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        answer_type(TAXONOMY).model_validate(GOOD | changes)


@given(st.text(), st.text())
def test_a_pages_words_stay_one_json_string(text: str, title: str) -> None:
    asked = question(text, title, ("icons",))
    assert asked.isascii()
    assert "\n" not in asked
    assert json.loads(asked) == {"topics": ["icons"], "title": title[:300], "text": text[:2000]}


def test_the_prompt_names_every_label_and_its_version_changes_with_them() -> None:
    told = instructions(TAXONOMY, vision=True)
    for name in (*TAXONOMY.themes, *TAXONOMY.styles, *TAXONOMY.schools):
        assert name in told
    values = TAXONOMY.model_dump()
    values["styles"]["risograph"] = {"words": ["risograph"]}
    other = Taxonomy.model_validate(values)
    versions = {
        prompt_version(TAXONOMY, vision=True),
        prompt_version(TAXONOMY, vision=False),
        prompt_version(other, vision=True),
    }
    assert len(versions) == 3
    assert prompt_version(load_taxonomy(), vision=True) in versions
