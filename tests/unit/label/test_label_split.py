"""The split: a partition that keeps near-duplicates together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lora_factory.imaging.hashes import Fingerprints
from lora_factory.label.split import Split, near_duplicates, split

groups = st.lists(st.integers(0, 30), min_size=4, max_size=80)
shares = st.floats(0.05, 0.45)


def cut(labels: Sequence[int], pages: Sequence[str], share: float, seed: int) -> Split:
    told = [(page, f"subject {number}") for number, page in enumerate(pages)]
    return split([f"item{number}" for number in range(len(labels))], labels, told, share, seed)


@given(groups, shares, st.integers(0, 5))
def test_groups_stay_together_and_both_parts_are_sane(
    labels: list[int], share: float, seed: int
) -> None:
    found = cut(labels, [""] * len(labels), share, seed)
    held, trained = set(), set()
    for label, out in zip(labels, found.validation.tolist(), strict=True):
        (held if out else trained).add(label)
    assert not held & trained
    assert 2 * found.validation.sum() <= max(len(labels), 2)
    assert trained
    assert found.groups == len(set(labels))


@given(st.integers(4, 200), shares, st.integers(0, 5))
def test_single_items_hold_out_the_share_but_never_too_few(
    count: int, share: float, seed: int
) -> None:
    found = cut(range(count), [""] * count, share, seed)
    assert found.validation.sum() == max(4 if count >= 24 else 1, round(share * count))


@given(groups, shares)
def test_same_seed_same_cut(labels: list[int], share: float) -> None:
    pages = [f"http://site/{label % 3}" for label in labels]
    first, again = (cut(labels, pages, share, 7).validation for _ in range(2))
    assert (first == again).all()


@given(st.permutations(range(40)))
def test_the_order_of_items_decides_nothing(order: list[int]) -> None:
    names = [f"item{number}" for number in order]
    found = split(names, range(40), [("", "")] * 40, 0.15, 0).validation
    whole = cut(range(40), [""] * 40, 0.15, 0).validation
    assert {name for name, out in zip(names, found, strict=True) if out} == {
        f"item{number}" for number in range(40) if whole[number]
    }


def test_what_was_held_out_stays_so_when_items_are_added() -> None:
    before = cut(range(200), [""] * 200, 0.15, 0).validation
    after = cut(range(300), [""] * 300, 0.15, 0).validation[:200]
    leaked = (after & ~before).sum()  # trained on by the parent, held out now
    assert leaked <= 3
    shuffled = 0.85 * 0.15 * 200  # what a fresh draw leaks
    assert leaked < shuffled / 5


def test_seeds_differ() -> None:
    assert len({tuple(cut(range(60), [""] * 60, 0.15, seed).validation) for seed in range(5)}) > 1


def sides(keys: Sequence[object], found: Split) -> tuple[set[object], set[object]]:
    """What is trained on, and what is held out."""
    trained, held = set(), set()
    for key, out in zip(keys, found.validation.tolist(), strict=True):
        (held if out else trained).add(key)
    return trained, held


def test_small_pages_stay_whole() -> None:
    pages = [f"http://site/{item // 2}" for item in range(120)]
    found = cut(range(120), pages, 0.15, 0)
    trained, held = sides(pages, found)
    assert len(held) == 9
    assert not held & trained
    assert found.parted == ()


def test_a_large_page_is_parted_and_named_and_small_ones_beside_it_stay_whole() -> None:
    pages = ["http://site/large"] * 60 + [f"http://site/{item // 3}" for item in range(60)]
    found = cut(range(120), pages, 0.15, 2)
    trained, held = sides(pages, found)
    assert trained & held == {"http://site/large"} == set(found.parted)
    assert found.validation.sum() == 18


def test_few_pages_are_parted_but_never_what_is_alike_in_them() -> None:
    """Two pages, each picture twice with the same words in other pixels."""
    told = [(f"http://site/{item % 2}", f"subject {item % 40}") for item in range(80)]
    found = split([f"item{n}" for n in range(80)], range(80), told, 0.15, 0)
    trained, held = sides(told, found)
    assert not trained & held
    assert found.validation.sum() == 12
    assert set(found.parted) == {"http://site/0", "http://site/1"}
    assert found.groups == 40


def test_one_page_can_be_parted() -> None:
    found = cut(range(40), ["http://site/"] * 40, 0.15, 0)
    assert found.validation.sum() == 6
    assert found.parted == ("http://site/",)


def test_one_page_with_one_subject_can_not() -> None:
    told = [("http://site/", "red apple")] * 12
    assert split([f"item{n}" for n in range(12)], range(12), told, 0.15, 0).validation.sum() == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 8)),
        min_size=4,
        max_size=80,
    ),
    shares,
    st.integers(0, 5),
)
def test_whatever_the_pages_nothing_leaks(
    items: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    """Near-duplicates, and same words on one page, are never parted; parted pages are named."""
    labels = [label for label, _, _ in items]
    told = [(f"http://site/{page}" if page else "", f"s{word}") for _, page, word in items]
    found = split([f"item{n}" for n in range(len(items))], labels, told, share, seed)
    trained, held = sides(labels, found)
    assert not trained & held
    on_pages = [pair if pair[0] else ("", at) for at, pair in enumerate(told)]
    trained, held = sides(on_pages, found)
    assert not trained & held
    pages = [page or at for at, (page, _) in enumerate(told)]
    trained, held = sides(pages, found)
    assert trained & held == set(found.parted)
    if len(items) >= 4:
        assert sides(labels, found)[0]


def test_a_duplicate_across_pages_joins_them() -> None:
    pages = [f"http://site/{item}" for item in range(40)]
    labels = [0, 0, *range(2, 40)]
    found = cut(labels, pages, 0.2, 3)
    assert found.parted == ()
    assert found.groups == 39
    assert found.validation[0] == found.validation[1]


def test_one_group_can_not_be_split() -> None:
    assert cut([0] * 12, [""] * 12, 0.15, 0).validation.sum() == 0


def test_a_big_group_stays_in_training() -> None:
    found = cut([0] * 30 + list(range(1, 11)), [""] * 40, 0.15, 1)
    assert not found.validation[:30].any()
    assert found.validation.sum() == 6


def _drawing(number: int) -> Image.Image:
    dice = np.random.default_rng(number)
    image = Image.new("RGB", (64, 64), "white")
    for _ in range(4):
        corner = dice.integers(0, 40, 2)
        ImageDraw.Draw(image).ellipse([*corner, *(corner + 20)], fill="black")
    return image


def test_near_duplicates_need_both_views() -> None:
    base = _drawing(0)
    shifted = base.resize((48, 48)).resize((64, 64))
    images = [base, _drawing(1), shifted, _drawing(2)]
    prints = Fingerprints.of(images)
    alike = np.ones((4, 8), dtype=np.float32) / np.float32(np.sqrt(8))
    assert near_duplicates(alike, prints).tolist() == [0, 1, 0, 2]
    apart = np.eye(4, dtype=np.float32)
    assert len(set(near_duplicates(apart, prints).tolist())) == 4


def test_near_duplicates_chain() -> None:
    """Single link: 0 ~ 1 and 1 ~ 2 keep 0 with 2, although those two are further apart."""
    angles = np.deg2rad([0, 15, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    prints = Fingerprints.of([_drawing(0)] * 4)
    assert near_duplicates(vectors, prints).tolist() == [0, 0, 0, 1]
