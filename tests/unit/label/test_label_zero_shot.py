"""From evidence to labels; tone by pixels; words for a set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_factory.label.labels import headings, style_of_set, theme_of_set
from lora_factory.label.look import tone_of
from lora_factory.label.taxonomy import Manner, Tone, load_taxonomy
from lora_factory.label.zero_shot import (
    Named,
    evidence,
    manner_probabilities,
    mentions,
    name_manner,
    name_themes,
    softmax,
)

STYLES = {
    "flat icon": Manner(words=("flat icon", "icon"), tone="colour"),
    "glyph": Manner(words=("glyph", "icon"), tone="bilevel"),
    "sketch": Manner(words=("sketch",), tone="grey"),
    "pixel art": Manner(words=("pixel art", "8-bit")),
}


def test_evidence_does_not_depend_on_a_models_spread() -> None:
    dice = np.random.default_rng(0)
    labels = np.eye(5, dtype=np.float32)
    items = dice.random((7, 5)).astype(np.float32)
    wide, narrow = evidence(items, labels), evidence(items * np.float32(0.01) + 0.3, labels)
    np.testing.assert_allclose(wide, narrow, atol=1e-3)
    assert wide.std() == pytest.approx(3.0)
    assert not evidence(np.ones((2, 5), dtype=np.float32), labels).any()


def test_mentions_are_whole_words_of_what_the_tone_allows() -> None:
    texts = ["An Icon set", "An Icon set", "iconic sketches", "8-bit", "", "flat icons"]
    tones: list[Tone] = ["colour", "bilevel", "grey", "colour", "grey", "bilevel"]
    found = mentions(texts, STYLES, tones)
    assert found.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0] * 5,
        [0, 1, 0, 0, 0],
    ]


def test_the_longest_name_counts() -> None:
    """Every label of the shipped file is named by each of its own words, and no other is."""
    taxonomy = load_taxonomy()
    for manners in (taxonomy.styles, taxonomy.schools):
        for name, manner in manners.items():
            tone = manner.tone or "colour"
            for word in manner.words:
                row = mentions([f"a {word} of a boat"], manners, [tone])[0]
                named = [other for other, yes in zip(manners, row, strict=False) if yes]
                assert name in named, word
                twins = {n for n, m in manners.items() if word in m.words}
                assert set(named) <= twins, word


@pytest.mark.parametrize("count", [4, 70, 700])
def test_a_named_style_wins_however_many_there_are(count: int) -> None:
    manners = {f"style{n}": Manner(words=(f"word{n}",)) for n in range(count)}
    named = mentions(["a word3 picture", "a picture"], manners, ["grey", "grey"])
    rows = manner_probabilities(np.zeros((2, count + 1)), named, manners, ["grey", "grey"])
    assert [name_manner(row, list(manners)).labels[0] for row in rows] == ["style3", "unknown"]


def test_pixels_rule_styles_out() -> None:
    tones: list[Tone] = ["colour", "bilevel", "grey"]
    named = mentions(["icons and one icon"] * 3, STYLES, tones)
    rows = manner_probabilities(np.zeros((3, 5)), named, STYLES, tones)
    names = [name_manner(row, list(STYLES)).labels[0] for row in rows]
    assert names == ["flat icon", "glyph", "unknown"]
    np.testing.assert_allclose(rows.sum(axis=1), 1)


def test_without_evidence_a_style_is_unknown() -> None:
    rows = manner_probabilities(np.zeros((1, 5)), np.zeros((1, 5)), STYLES, ["colour"])
    assert name_manner(rows[0], list(STYLES)) == Named(("unknown",), 0.0)


def row(**probabilities: float) -> np.ndarray:
    taxonomy = load_taxonomy()
    found = np.zeros(len(taxonomy.themes) + 1)
    for name, value in probabilities.items():
        found[[*taxonomy.themes].index(name.replace("_", " "))] = value
    found[-1] = 1 - found.sum()
    return found


def test_themes_go_as_deep_as_they_are_clear() -> None:
    taxonomy = load_taxonomy()
    deep, top, *others = name_themes(
        np.stack([
            row(fruit=0.7, vegetables=0.2),
            row(fruit=0.4, vegetables=0.35, tools=0.1),
            row(fruit=0.3, tools=0.25),
            row(fruit=0.45),
        ]),
        taxonomy,
    )
    assert deep.labels == ("fruit", "food")
    assert deep.confidence == pytest.approx(0.7)
    assert top.labels == ("food",)
    assert top.confidence == pytest.approx(0.75)
    assert others == [Named((), 0.0)] * 2


def test_three_levels() -> None:
    (found,) = name_themes(row(cats=0.5, dogs=0.2, birds=0.1)[None], load_taxonomy())
    assert found.labels == ("cats", "pets", "animals")
    assert found.confidence == pytest.approx(0.5)


def test_softmax_survives_impossible_labels() -> None:
    assert softmax(np.array([[-np.inf, 1000.0, 1000.0]])).tolist() == [[0.0, 0.5, 0.5]]


def _ink(colour: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse([10, 10, 50, 50], outline=colour, width=4)
    return image


def _ramp() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB")


def test_tones() -> None:
    assert tone_of(_ink("black")) == "bilevel"
    assert tone_of(_ink("red")) == "colour"
    assert tone_of(_ramp()) == "grey"
    assert tone_of(Image.new("RGB", (8, 8), "white")) == "grey"


def test_theme_of_a_set() -> None:
    taxonomy = load_taxonomy()
    fruit, meals = Named(("fruit", "food"), 0.9), Named(("meals", "food"), 0.9)
    tools, nothing = Named(("tools", "objects"), 0.9), Named((), 0.0)
    assert theme_of_set([fruit, fruit, meals], taxonomy, ["icons"]) == "fruit"
    assert theme_of_set([fruit, meals, tools, fruit, meals], taxonomy, ["x"]) == "food"
    mixed = [fruit, fruit, tools, nothing, nothing]
    assert theme_of_set(mixed, taxonomy, ["icons"]) == "food and objects"
    assert theme_of_set([nothing] * 3, taxonomy, ["Emoji Icons"]) == "emoji icons"


def test_style_of_a_set_falls_back_on_what_can_be_measured() -> None:
    assert style_of_set("watercolor", ["grey"], ["icons"]) == "watercolor"
    assert style_of_set("unknown", ["bilevel", "bilevel", "grey"], ["Old Trains"]) == (
        "black and white old trains"
    )
    assert style_of_set("unknown", ["colour"], ["old trains"]) == "old trains"


def test_headings() -> None:
    titles = ["Fruit: icons of X", "Fruit: icons of X", "Tools | X", "X", "", "Meals - X"]
    assert headings(titles) == ["Fruit", "Fruit", "Tools", "X", "", "Meals"]
    assert headings(["Home of X", "Home of X", "Fruit"]) == ["", "", "Fruit"]
