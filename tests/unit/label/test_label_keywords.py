"""Keywords."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_factory.label.keywords import PER_DATASET, PER_ITEM, keywords, words_of


def test_words() -> None:
    assert words_of("The red-apple, 3 pies and a l'été x <b>") == ["red-apple", "pies", "l'été"]


def test_each_item_gets_its_own_words_first() -> None:
    subjects = ["red apple", "green apple", "blue whale", "humpback whale", "hot dog", "dog"]
    contexts = ["fruit food", "fruit food", "sea animals", "sea animals", "meals food", "pets"]
    each, whole = keywords(subjects, contexts, ["emoji icons"])
    assert each[0][:2] == ("red", "apple")
    assert each[2][0] == "blue"
    assert "whale" in each[3]
    assert whole[:2] == ("emoji", "icons")
    assert {"apple", "whale"} <= set(whole)


def test_what_all_texts_share_is_no_keyword() -> None:
    names = ("apple", "pear", "plum", "fig", "kiwi", "lime")
    each, whole = keywords([f"gallery {name}" for name in names], [""] * 6, ["fruit"])
    assert all("gallery" not in words for words in each)
    assert "gallery" not in whole[:1]
    assert len(whole) == 5


def test_nothing_said() -> None:
    assert keywords(["", "  "], ["", ""], ["emoji icons"]) == ([(), ()], ("emoji", "icons"))
    assert keywords([""], [""], ["the"]) == ([()], ())


@given(st.lists(st.text(max_size=40), min_size=1, max_size=12), st.lists(st.text(), max_size=3))
def test_any_text_keeps_the_bounds(texts: list[str], topics: list[str]) -> None:
    each, whole = keywords(texts, texts, topics)
    assert len(each) == len(texts)
    assert all(len(words) <= PER_ITEM for words in each)
    assert len(whole) <= PER_DATASET
    assert len(set(whole)) == len(whole)
    distinct = {word for text in (*texts, *topics) for word in words_of(text)}
    assert len(whole) >= min(5, len(distinct))
