"""Which text a picture gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_factory.contracts.records import RawRecord
from lora_factory.sanitize.captions import (
    Caption,
    candidates,
    compose,
    found_caption,
    named_caption,
    vocabulary,
)

AXES = {"apple": 0, "boat": 1, "cat": 2}


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """A scorer for tests: one axis a known word, the last for everything else."""
    rows = np.zeros((len(texts), 4), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[next((axis for word, axis in AXES.items() if word in text), 3)] = 1
    return rows


def raw(**texts: str) -> RawRecord:
    defaults = {"sha256": "0" * 64, "file_name": "images/x.png", "url": "https://e.org/IMG_1.png"}
    return RawRecord.model_validate({**defaults, **texts, "width": 64, "height": 64})


def test_alt_comes_before_the_caption() -> None:
    found = found_caption(raw(alt="a red apple", caption="The apple, hung once more"))
    assert found == Caption("a red apple", "alt")


def test_the_caption_where_the_alt_says_nothing() -> None:
    for alt in ("", "IMG_0042.jpg", "image", "<b></b>", "Click to enlarge", "\ud800"):
        found = found_caption(raw(alt=alt, caption="<i>A red apple</i>"))
        assert found is not None
        assert (found.text, found.source) == ("A red apple", "caption")
        assert found.steps == ("markup", "whitespace")


def test_none_where_both_say_nothing() -> None:
    assert found_caption(raw()) is None
    assert found_caption(raw(alt="123", caption="logo")) is None


def test_candidates_in_order_and_once() -> None:
    record = raw(
        url="https://e.org/red-apple.png",
        nearby=f"An apple on a tree. {'word ' * 20}. red apple",
        page_title="Fruit: the gallery",
    )
    options = candidates(record, ["boat", "red apple"])
    assert options == ["red apple", "An apple on a tree", "Fruit", "boat"]
    assert candidates(raw(page_title="404"), []) == []


def test_vocabulary_is_the_most_frequent_first() -> None:
    found = [Caption(text, "alt") for text in ("Cat", "boat", "cat", "apple", "boat", "cat")]
    assert vocabulary([*found, None], size=2) == ["cat", "boat"]


def test_the_scorer_chooses_the_closest() -> None:
    image = embed(["cat"])[0]
    options = ["an apple", "the boat", "a cat", "cats"]
    chosen = compose(options, image, list(embed(options)))
    assert chosen == Caption("a cat", "composed")


def test_no_options_give_no_caption() -> None:
    assert compose([], embed(["cat"])[0], []) == Caption("", "none")


def test_without_a_scorer_only_the_file_name_speaks() -> None:
    named = raw(url="https://e.org/red-apple.png", nearby="A boat.", page_title="Cats")
    assert named_caption(named) == Caption("red apple", "composed")
    assert named_caption(raw(nearby="A boat.", page_title="Cats")) == Caption("", "none")
