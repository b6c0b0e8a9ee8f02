"""Keywords."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_factory.label.keywords import (
    PER_DATASET,
    PER_ITEM,
    keywords,
    padded,
    vocabulary,
    words_of,
)


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


def test_too_few_are_padded_with_what_is_known_then_with_what_is_closest() -> None:
    closest = ["dog", "puppy", "puppies", "animal", "ball"]
    found = padded(["dog"], ["dogs", "animals"], closest)
    assert found == ("dog", "animals", "puppy", "puppies", "ball")
    enough = ("a", "b", "c", "d", "e", "f")
    assert padded(enough, ["x"], closest) == enough
    assert padded([], [], ["only"]) == ("only",)


def test_the_sets_own_words_come_first() -> None:
    each = [("dog", "red"), ("dog",), ()]
    themes = [("pets", "animals"), ("pets", "animals"), ("food",)]
    assert vocabulary(each, themes, ["food", "tools"])[:2] == ("pets", "animals")
    assert vocabulary(each, themes, ["food", "tools"])[-1] == "tools"
    assert set(vocabulary(each, themes, ["food"])) == {"dog", "red", "pets", "animals", "food"}


words = st.lists(st.sampled_from("abcdefghijkl"), max_size=8, unique=True)


@given(words, words, words)
def test_padding_takes_only_what_it_is_given_and_as_little_as_it_can(
    own: list[str], said: list[str], closest: list[str]
) -> None:
    found = padded(own, said, closest)
    assert list(found[: len(own)]) == own
    assert len(set(found)) == len(found)
    assert set(found) <= {*own, *said, *closest}
    assert len(found) == max(len(own), min(5, len({*own, *said, *closest})))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=12), st.lists(st.text(), max_size=3))
def test_any_text_keeps_the_bounds(texts: list[str], topics: list[str]) -> None:
    each, whole = keywords(texts, texts, topics)
    assert len(each) == len(texts)
    assert all(len(words) <= PER_ITEM for words in each)
    assert len(whole) <= PER_DATASET
    assert len(set(whole)) == len(whole)
    distinct = {word for text in (*texts, *topics) for word in words_of(text)}
    assert len(whole) >= min(5, len(distinct))
