"""Greedy deduplication: the best stays, chains don't spread, semantic needs both sides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_factory.imaging.hashes import BITS, Fingerprints
from lora_factory.sanitize.dedup import (
    ALIKE_BITS,
    ALIKE_RMS,
    LONG_WORDS,
    NEAR_BITS,
    NEAR_RMS,
    Copy,
    Evidence,
    Limits,
    copies,
)

RNG = np.random.default_rng(0)


def far(count: int, width: int = 512) -> NDArray[np.float32]:
    """Unit rows that are unlike each other."""
    rows = RNG.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def angles(*degrees: float) -> NDArray[np.float32]:
    """Unit rows in a plane: cosines are those of the angles between them."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def far_prints(count: int) -> Fingerprints:
    return Fingerprints(
        RNG.integers(0, 256, (count, BITS // 8), dtype=np.uint8),
        RNG.integers(0, 256, (count, 3 * BITS), dtype=np.uint8),
    )


def chain_prints(bits: list[int], shades: list[int]) -> Fingerprints:
    """Item k differs from an all-ones hash in its first ``bits[k]`` bits."""
    signs = np.arange(BITS)[None, :] >= np.asarray(bits)[:, None]
    thumbs = np.repeat(np.asarray(shades, dtype=np.uint8)[:, None], 3 * BITS, axis=1)
    return Fingerprints(np.packbits(signs, axis=1), thumbs)


def seen(
    prints: Fingerprints,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    words: int = 3,
) -> Evidence:
    return Evidence(prints, images, texts, np.full(len(images), words))


def found(evidence: Evidence, order: list[int] | None = None, known: int = 0) -> list[Copy]:
    order = list(range(len(evidence.images))) if order is None else order
    return list(copies(evidence, order, Limits(), known=known).found)


def test_a_chain_keeps_its_far_end() -> None:
    """A ~ B ~ C, A unlike C: only B goes."""
    prints = chain_prints([0, 40, 80], [128, 128, 128])
    assert found(seen(prints, far(3), far(3))) == [Copy(1, 0, "near_duplicate")]
    # Walked from the middle, both ends are its copies.
    assert found(seen(prints, far(3), far(3)), [1, 0, 2]) == [
        Copy(0, 1, "near_duplicate"),
        Copy(2, 1, "near_duplicate"),
    ]


def test_a_semantic_chain_keeps_its_far_end() -> None:
    images = angles(0, 10, 20)
    assert np.cos(np.radians(10)) > 0.97 > np.cos(np.radians(20))
    evidence = seen(far_prints(3), images, angles(0, 0, 0))
    assert found(evidence) == [Copy(1, 0, "semantic_duplicate")]


def test_the_first_in_order_is_kept() -> None:
    prints = chain_prints([0, 1, 2], [128, 128, 128])
    gone = found(seen(prints, far(3), far(3)), [2, 0, 1])
    assert gone == [Copy(0, 2, "near_duplicate"), Copy(1, 2, "near_duplicate")]


@pytest.mark.parametrize(
    ("bits", "shade", "near"),
    [
        (NEAR_BITS, int(NEAR_RMS * 255), True),
        (NEAR_BITS + 1, 0, False),
        (0, int(NEAR_RMS * 255) + 1, False),
    ],
)
def test_near_needs_hash_and_thumbnail(bits: int, shade: int, near: bool) -> None:
    prints = chain_prints([0, bits], [128, 128 + shade])
    assert bool(found(seen(prints, far(2), far(2)))) == near


@pytest.mark.parametrize(
    ("image", "text", "gone"),
    [(13.9, 31, True), (14.2, 0, False), (0, 32, False), (0, 0, True)],
)
def test_semantic_needs_image_and_text(image: float, text: float, gone: bool) -> None:
    """0.97 is 14.07°, 0.85 is 31.79°."""
    evidence = seen(far_prints(2), angles(0, image), angles(0, text))
    assert found(evidence) == ([Copy(1, 0, "semantic_duplicate")] if gone else [])


@pytest.mark.parametrize("known", [(), (0,), (1,)])
def test_without_both_texts_the_image_alone_convicts_nobody(known: tuple[int, ...]) -> None:
    texts = np.zeros((2, 2), dtype=np.float32)
    texts[list(known)] = 1, 0
    assert found(seen(far_prints(2), angles(0, 0), texts)) == []


@pytest.mark.parametrize(
    ("bits", "shade", "gone"),
    [(ALIKE_BITS, 28, True), (ALIKE_BITS + 1, 0, False), (0, int(ALIKE_RMS * 255) + 1, False)],
)
def test_alike_fingerprints_are_a_second_witness(bits: int, shade: int, gone: bool) -> None:
    prints = chain_prints([0, bits], [128, 128 + shade])
    silent = np.zeros((2, 2), dtype=np.float32)
    duplicate = [Copy(1, 0, "semantic_duplicate")] if gone else []
    assert found(seen(prints, angles(0, 10), silent)) == duplicate
    # Without image embeddings that agree they are none.
    assert found(seen(prints, angles(0, 20), silent)) == []


def test_the_original_named_is_one_that_is_kept() -> None:
    """The second hash is near a dropped item and a kept one: the kept one is named."""
    prints = chain_prints([0, 30, 60, 75], [128] * 4)
    gone = found(seen(prints, far(4), far(4)))
    assert gone == [Copy(1, 0, "near_duplicate"), Copy(3, 2, "near_duplicate")]


def test_nothing_and_one() -> None:
    assert found(seen(far_prints(0), far(0), far(0))) == []
    assert found(seen(far_prints(1), far(1), far(1))) == []


def test_different_items_are_all_kept() -> None:
    assert found(seen(far_prints(100), far(100), far(100))) == []


@pytest.mark.parametrize(
    ("words", "image", "text", "gone"),
    [
        (LONG_WORDS, 25, 31, True),
        (LONG_WORDS - 1, 25, 31, False),  # a caption
        (LONG_WORDS, 26, 31, False),  # another picture of the series
        (LONG_WORDS, 25, 32, False),
    ],
)
def test_long_texts_convict_pictures_that_are_less_alike(
    words: int, image: float, text: float, gone: bool
) -> None:
    """0.9 is 25.84°."""
    evidence = seen(far_prints(2), angles(0, image), angles(0, text), words)
    assert found(evidence) == ([Copy(1, 0, "text_duplicate")] if gone else [])


def test_what_was_judged_before_is_only_compared_with_what_is_new() -> None:
    prints = chain_prints([0, 1, 2], [128] * 3)
    assert found(seen(prints, far(3), far(3)), known=2) == [Copy(2, 0, "near_duplicate")]


def planted(count: int) -> tuple[Evidence, set[int]]:
    """Copies of the first tenth at the end: a tenth of that near, the rest semantic."""
    prints, images, texts = far_prints(count), far(count, 64), far(count, 16)
    copied = count // 10
    tail = np.arange(count - copied, count)
    noise = far(copied, 64) * 0.1
    images[tail] = images[:copied] + noise
    images[tail] /= np.linalg.norm(images[tail], axis=1, keepdims=True)
    texts[tail] = texts[:copied]
    near = copied // 10
    prints.bits[tail[:near]], prints.thumbs[tail[:near]] = prints.bits[:near], prints.thumbs[:near]
    return seen(prints, images, texts), set(tail.tolist())


def test_the_forest_finds_what_the_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, tail = planted(3000)
    exact = found(evidence)
    assert {copy.index for copy in exact} == tail
    monkeypatch.setattr("lora_factory.imaging.neighbours.EXACT_PAIRS", 0)
    several = copies(evidence, list(range(3000)), Limits())
    assert len(set(several.found) & set(exact)) >= 0.99 * len(exact)
    assert set(several.found) <= set(exact)
    assert several.recall >= 0.99


def test_a_thousand_copies_of_one_picture_leave_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_factory.imaging.neighbours.EXACT_PAIRS", 0)
    prints, images, texts = far_prints(2000), far(2000), far(2000)
    prints.bits[1000:], prints.thumbs[1000:] = prints.bits[0], prints.thumbs[0]
    gone = {copy.index for copy in found(seen(prints, images, texts))}
    assert gone == set(range(1000, 2000))
