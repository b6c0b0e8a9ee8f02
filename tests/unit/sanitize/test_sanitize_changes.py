"""Whatever happens to a text, the audit has it as it was."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_factory.contracts.records import RawRecord
from lora_factory.sanitize.captions import (
    NO_CAPTION,
    Caption,
    advised_caption,
    found_caption,
    generated,
)
from lora_factory.sanitize.changes import changes
from lora_factory.sanitize.text import repair

TOLD = re.compile(r"""(\w+) \(([\w ]*)\): ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?:; |$)""")
HOSTILE = ["<b>red</b> apple", "a 'quoted' \"cat\"; alt (x): 'no'", "cafe\u0301 \ud83d", "x" * 400]
TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.sampled_from(["", "IMG_1.jpg", "a red apple", "an oil painitng of the harbour", *HOSTILE]),
)


def before(detail: str) -> dict[str, str]:
    """Field → text as it was, read back from the audit."""
    assert "".join(match[0] for match in TOLD.finditer(detail)) == detail
    return {field: ast.literal_eval(text) for field, _, text in TOLD.findall(detail)}


def raw(alt: str, caption: str, title: str) -> RawRecord:
    return RawRecord(
        sha256="0",
        file_name="a.png",
        url="u",
        width=1,
        height=1,
        alt=alt,
        caption=caption,
        page_title=title,
    )


@settings(max_examples=300)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["kept", "advised", "generated", "taken away"]))
@example("<b>dog</b>", "", "A &amp; B", "advised")
def test_every_text_that_was_changed_can_be_read_back(
    alt: str, caption: str, title: str, fate: str
) -> None:
    record = raw(alt, caption, title)
    found = found_caption(record)
    chosen: Caption | None = {
        "kept": found or NO_CAPTION,
        "advised": advised_caption("a green pear"),
        "generated": generated("a dog on the table"),
        "taken away": NO_CAPTION,
    }[fate]
    assert chosen is not None
    told = before(changes(record, found, chosen))
    if found is not None:
        was = getattr(record, found.source)
        assert told.get(found.source, chosen.text) == was
        assert (found.source in told) == (was != chosen.text)
    assert told.get("page_title", repair(title).text) == title


@pytest.mark.parametrize(
    ("alt", "chosen", "told"),
    [
        ("a red apple", None, ""),
        ("<b>Red</b> apple", None, "alt (markup whitespace): '<b>Red</b> apple'"),
        ("red apple", Caption("dog", "composed"), "alt (replaced): 'red apple'"),
        (
            "red apple",
            Caption("a dog", "composed", ("generated",)),
            "alt (generated replaced): 'red apple'",
        ),
        ("", Caption("a dog", "composed", ("generated",)), "text (generated): ''"),
        ("", Caption("dog", "composed"), ""),
    ],
)
def test_what_it_says(alt: str, chosen: Caption | None, told: str) -> None:
    record = raw(alt, "", "")
    found = found_caption(record)
    assert changes(record, found, chosen or found or NO_CAPTION) == told
