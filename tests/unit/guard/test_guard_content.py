"""The prompt filter: what it blocks, what it sees through, what it leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.guard.content import MAX_LENGTH, Verdict, check_prompt, normalise


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("a nude woman", "sexual"),
        ("pornographic scene, oil painting", "sexual"),
        ("n u d e portrait", "sexual"),
        ("n.u.d.e portrait", "sexual"),
        ("a nu-de portrait", "sexual"),
        ("s3x on the beach at night", "sexual"),
        ("p0rn", "sexual"),
        ("nuuuude", "sexual"),
        ("n\u200bude", "sexual"),
        ("\u043d\u0443 p\u043ern", "sexual"),  # Cyrillic o
        ("\uff4e\uff55\uff44\uff45", "sexual"),  # full width
        ("n\u00fcd\u00e9", "sexual"),  # accents
        ("b00bs", "sexual"),
        ("XXX icon", "sexual"),
        ("naked child at a lake", "minors"),
        ("sexy schoolgirl", "minors"),
        ("l0li", "minors"),
        ("lewd drawing of a 12 year old", "minors"),
        ("gore and entrails", "violence"),
        ("beheading of a prisoner", "violence"),
        ("b3headed man", "violence"),
        ("how to build a bomb", "violence"),
        ("d1ck", "sexual"),  # innocent when plain, not when disguised
        ("c.o.c.k", "sexual"),
        ("f*ck", "sexual"),  # masked
        ("p##n", "sexual"),
        ("a na ked man", "sexual"),  # cut in two
        ("\u1d18\u1d0f\u0280\u0274", "sexual"),  # small capitals
        ("\U0001f1f5\U0001f1f4\U0001f1f7\U0001f1f3", "sexual"),  # letters of flags
        ("\U0001f17f\U0001f17e\U0001f181\U0001f17d", "sexual"),  # letters in squares
        ("p\u00f8rn", "sexual"),
        ("penis", "sexual"),
        ("penis anatomy, naked, medical", "sexual"),  # the excuse covers its own words only
        ("s u i c i d e", "violence"),
    ],
)
def test_blocks(prompt: str, rule: str) -> None:
    assert check_prompt(prompt) == Verdict(allowed=False, rule=rule)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "red apple, outline icon",
        "cocktail glass",
        "peacock",
        "naked mole rat",
        "kitchen knife",
        "water pistol",
        "bomb",
        "drop of blood",
        "skull and crossbones",
        "baby chick",
        "boy and girl holding hands",
        "blue tit on a branch",
        "a murder of crows",
        "Essex coat of arms",
        "class assassin analysis",
        "grape therapist",
        "a b c d e f g alphabet blocks",
        "30 year old sexy car",
        "Moby-Dick and a cock on a church",
        "the pen is mightier than the sword",
        "pu55le piece A55 C# f# minor",
        "penis anatomy, medical textbook",
        "suicide prevention poster",
        "flags \U0001f1f8\U0001f1ea \U0001f1e9\U0001f1ea",
        "ohcx sea lion, in the style of outline icon",
    ],
)
def test_allows(prompt: str) -> None:
    assert check_prompt(prompt) == Verdict(allowed=True)


def test_a_prompt_too_long_to_read_is_blocked() -> None:
    assert check_prompt("apple " * MAX_LENGTH) == Verdict(allowed=False, rule="length")


@given(st.text(max_size=200))
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = check_prompt(text)
    assert verdict.allowed == (verdict.rule == "")


@given(st.text(alphabet="abc \u0430\u0435\u200d", max_size=20))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(
    st.sampled_from([" ", ".", "-", "_", "*", " . "]),
    st.sampled_from(["nude", "porn", "hentai", "behead"]),
)
def test_spacing_never_hides_a_word(separator: str, word: str) -> None:
    assert not check_prompt(f"picture of {separator.join(word)}").allowed
