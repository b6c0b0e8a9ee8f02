"""Greedy deduplication: the best stays, chains don't spread, semantic needs both sides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_factory.imaging.hashes import BITS, Fingerprints
from lora_factory.sanitize.dedup import (
    ALIKE_BITS,
    ALIKE_RMS,
    NEAR_BITS,
    NEAR_RMS,
    Copy,
    Evidence,
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
    signs = np.where(RNG.random((count, BITS)) < 0.5, -1, 1).astype(np.float32)
    return Fingerprints(signs, RNG.random((count, 3 * BITS), dtype=np.float32))


def chain_prints(bits: list[int], shades: list[float]) -> Fingerprints:
    """Item k differs from an all-ones hash in its first ``bits[k]`` bits."""
    signs = np.ones((len(bits), BITS), dtype=np.float32)
    for row, count in zip(signs, bits, strict=True):
        row[:count] = -1
    thumbs = np.repeat(np.asarray(shades, dtype=np.float32)[:, None], 3 * BITS, axis=1)
    return Fingerprints(signs, thumbs)


def found(evidence: Evidence, order: list[int] | None = None) -> list[Copy]:
    order = list(range(len(evidence.images))) if order is None else order
    return list(copies(evidence, order, image_similarity=0.97, text_similarity=0.85))


def test_a_chain_keeps_its_far_end() -> None:
    """A ~ B ~ C, A unlike C: only B goes."""
    prints = chain_prints([0, 40, 80], [0.5, 0.5, 0.5])
    assert found(Evidence(prints, far(3), far(3))) == [Copy(1, 0, "near_duplicate")]
    # Walked from the middle, both ends are its copies.
    assert found(Evidence(prints, far(3), far(3)), [1, 0, 2]) == [
        Copy(0, 1, "near_duplicate"),
        Copy(2, 1, "near_duplicate"),
    ]


def test_a_semantic_chain_keeps_its_far_end() -> None:
    images = angles(0, 10, 20)
    assert np.cos(np.radians(10)) > 0.97 > np.cos(np.radians(20))
    evidence = Evidence(far_prints(3), images, angles(0, 0, 0))
    assert found(evidence) == [Copy(1, 0, "semantic_duplicate")]


def test_the_first_in_order_is_kept() -> None:
    prints = chain_prints([0, 1, 2], [0.5, 0.5, 0.5])
    gone = found(Evidence(prints, far(3), far(3)), [2, 0, 1])
    assert gone == [Copy(0, 2, "near_duplicate"), Copy(1, 2, "near_duplicate")]


@pytest.mark.parametrize(
    ("bits", "shade", "near"),
    [
        (NEAR_BITS, NEAR_RMS - 0.001, True),
        (NEAR_BITS + 1, 0.0, False),
        (0, NEAR_RMS + 0.001, False),
    ],
)
def test_near_needs_hash_and_thumbnail(bits: int, shade: float, near: bool) -> None:
    prints = chain_prints([0, bits], [0.5, 0.5 + shade])
    assert bool(found(Evidence(prints, far(2), far(2)))) == near


@pytest.mark.parametrize(
    ("image", "text", "gone"),
    [(13.9, 31, True), (14.2, 0, False), (0, 32, False), (0, 0, True)],
)
def test_semantic_needs_image_and_text(image: float, text: float, gone: bool) -> None:
    """0.97 is 14.07°, 0.85 is 31.79°."""
    evidence = Evidence(far_prints(2), angles(0, image), angles(0, text))
    assert found(evidence) == ([Copy(1, 0, "semantic_duplicate")] if gone else [])


@pytest.mark.parametrize("known", [(), (0,), (1,)])
def test_without_both_texts_the_image_alone_convicts_nobody(known: tuple[int, ...]) -> None:
    texts = np.zeros((2, 2), dtype=np.float32)
    texts[list(known)] = 1, 0
    assert found(Evidence(far_prints(2), angles(0, 0), texts)) == []


@pytest.mark.parametrize(
    ("bits", "shade", "gone"),
    [(ALIKE_BITS, 0.11, True), (ALIKE_BITS + 1, 0.0, False), (0, ALIKE_RMS + 0.01, False)],
)
def test_alike_fingerprints_are_a_second_witness(bits: int, shade: float, gone: bool) -> None:
    prints = chain_prints([0, bits], [0.5, 0.5 + shade])
    silent = np.zeros((2, 2), dtype=np.float32)
    duplicate = [Copy(1, 0, "semantic_duplicate")] if gone else []
    assert found(Evidence(prints, angles(0, 10), silent)) == duplicate
    # Without image embeddings that agree they are none.
    assert found(Evidence(prints, angles(0, 20), silent)) == []


def test_the_original_named_is_one_that_is_kept() -> None:
    """The second hash is near a dropped item and a kept one: the kept one is named."""
    prints = chain_prints([0, 30, 60, 75], [0.5] * 4)
    gone = found(Evidence(prints, far(4), far(4)))
    assert gone == [Copy(1, 0, "near_duplicate"), Copy(3, 2, "near_duplicate")]


def test_nothing_and_one() -> None:
    assert found(Evidence(far_prints(0), far(0), far(0))) == []
    assert found(Evidence(far_prints(1), far(1), far(1))) == []


def test_different_items_are_all_kept() -> None:
    assert found(Evidence(far_prints(100), far(100), far(100))) == []
