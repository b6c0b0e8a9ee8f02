"""Which images spoil a dataset: found where the scorer can tell, silence where it can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lora_factory.evaluate.items import (
    DatasetItems,
    copied_items,
    judge_items,
    off_style,
)
from lora_factory.guard.copying import Nearest

COUNT, WIDTH = 30, 64
SEEN = Path(__file__).parents[2] / "calibration" / "data" / "seen"


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sharp(noise: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of one style and texts that agree row by row, but for ``noise``."""
    rng = np.random.default_rng(seed)
    style = 1.5 * rng.standard_normal((1, WIDTH))
    subject = rng.standard_normal((COUNT, WIDTH))
    images = subject + style + noise * rng.standard_normal((COUNT, WIDTH))
    texts = subject + noise * rng.standard_normal((COUNT, WIDTH))
    return unit(images), unit(texts)


def items(images: np.ndarray, texts: np.ndarray, names: list[int] | None = None) -> DatasetItems:
    """Row i has the caption of row ``names[i]``."""
    names = names or list(range(len(images)))
    return DatasetItems(
        tuple(f"{row:064x}" for row in range(len(images))),
        tuple(f"thing {name}" for name in names),
        images,
        texts[names],
    )


def rows(advice: tuple) -> list[int]:
    return [int(item.sha256, 16) for item in advice]


def swapped(*wrong: int) -> list[int]:
    """Captions that go round among some rows."""
    names = list(range(COUNT))
    for row, other in zip(wrong, (*wrong[1:], wrong[0]), strict=True):
        names[row] = other
    return names


def test_sound_data_has_nothing_to_change() -> None:
    assert judge_items(items(*sharp())) == ()


def test_shuffled_captions_are_found_and_put_right() -> None:
    wrong = (2, 5, 11, 17, 20, 23, 26, 28)
    advice = judge_items(items(*sharp(), swapped(*wrong)))
    assert set(rows(advice)) <= set(wrong)
    assert len(advice) >= 4  # some other caption fits better than a wrong one only by luck
    for item in advice:
        assert (item.do, item.reason) == ("recaption", "caption_mismatch")
        assert item.text == f"thing {int(item.sha256, 16)}"
        assert repr(item.text) in item.detail


def test_where_no_caption_fits_the_wrong_one_is_taken_away() -> None:
    images, texts = sharp()
    foreign = np.random.default_rng(9).standard_normal((1, WIDTH))
    images[7] = unit(images.mean(axis=0, keepdims=True) + 0.02 * foreign)[0]
    texts[7] = unit(-texts.mean(axis=0, keepdims=True) - images[7:8])[0]
    (item,) = judge_items(items(images, texts))
    assert rows((item,)) == [7]
    assert (item.do, item.text) == ("recaption", "")


def test_pictures_of_another_style_are_dropped() -> None:
    images, texts = sharp()
    rng = np.random.default_rng(3)
    images[[4, 9]] = unit(rng.standard_normal((2, WIDTH)) - 3 * images.mean(axis=0))
    advice = judge_items(items(images, texts))
    assert {4, 9} <= set(rows(advice))
    strange = [item for item in advice if item.reason == "off_style"]
    assert rows(tuple(strange)) == [4, 9]
    assert all(item.do == "drop" for item in strange)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.33])
def test_a_group_of_another_style_is_dropped_whole(share: float) -> None:
    """One by one they hide: with a third of them nothing is unusual any more."""
    rng = np.random.default_rng(5)
    one, other = rng.standard_normal((2, 1, WIDTH))
    foreign = round(60 * share)
    noise = rng.standard_normal((60, WIDTH))
    images = unit(np.where(np.arange(60)[:, None] < foreign, 6 * other, 3 * one) + noise)
    found = off_style(DatasetItems(tuple(f"{row:064x}" for row in range(60)), (), images, images))
    assert rows(tuple(found)) == list(range(foreign))
    assert all("another style" in item.detail for item in found)


def test_two_groups_of_equal_size_are_no_fault_of_one() -> None:
    rng = np.random.default_rng(6)
    one, other = rng.standard_normal((2, 1, WIDTH))
    noise = rng.standard_normal((60, WIDTH))
    images = unit(np.where(np.arange(60)[:, None] < 29, 6 * other, 3 * one) + noise)
    names = tuple(f"{row:064x}" for row in range(60))
    assert off_style(DatasetItems(names, (), images, images)) == []


@pytest.mark.parametrize("name", ["high-contrast", "tabler-filled", "lucide", "mdi"])
def test_real_styles_are_one_group(name: str) -> None:
    """What evaluation saw of four icon styles: their halves are not told apart."""
    real = np.load(SEEN / name / f"zeroed-{name}-good-0.npz")["pairs.real"].astype(np.float32)
    names = tuple(f"{row:064x}" for row in range(len(real)))
    found = off_style(DatasetItems(names, (), unit(real), unit(real)))
    assert not [item for item in found if "another style" in item.detail]


@pytest.mark.parametrize("seed", range(5))
def test_a_blind_scorer_says_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, texts = sharp(seed=seed)
    advice = judge_items(items(images, unit(rng.standard_normal(texts.shape))))
    assert [item for item in advice if item.reason == "caption_mismatch"] == []


def test_more_than_a_third_is_the_scorers_error() -> None:
    wrong = tuple(range(1, 21))
    assert judge_items(items(*sharp(), swapped(*wrong))) == ()


def test_a_small_dataset_and_equal_captions_say_nothing() -> None:
    images, texts = sharp()
    assert judge_items(items(images[:8], texts[:8])) == ()
    assert judge_items(items(images, texts, [0] * COUNT)) == ()


def test_copied_images_are_named_while_they_are_few() -> None:
    shas = [f"{row:064x}" for row in range(40)]

    def seen(*indices: int) -> list[Nearest]:
        return [Nearest(i, 0.99, 1, copied=True) for i in indices] + [
            Nearest(39, 0.2, 30, copied=False)
        ]

    assert rows(copied_items(seen(3, 8, 3), shas)) == [3, 8]
    assert "2 of 4 pictures" in copied_items(seen(3, 8, 3), shas)[0].detail
    assert copied_items(seen(1, 2, 3, 4, 5), shas) == ()
    assert copied_items([], shas) == ()
