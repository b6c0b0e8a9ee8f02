"""The watermark: found after what the network does to pictures, and nowhere else."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling
from sklearn.datasets import load_sample_image

from lora_factory.deploy.pictures import MARKED_DIFFERENCE
from lora_factory.guard.provenance.watermark import MIN_SIDE, PRESENT, PUBLIC_KEY, Watermark

IDENT = "3fa2c1"
MARK = Watermark(b"the key")


def photo(side: int = 512) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize((side, side))


def icon(side: int = 512) -> Image.Image:
    """A flat disc on white, the hardest kind: no texture hides noise."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    inside = np.hypot(rows, columns) < side / 3
    return Image.fromarray(
        np.where(inside[..., None], (220, 60, 40), (255, 255, 255)).astype(np.uint8)
    )


def noise(side: int = 512) -> Image.Image:
    """Takes the strongest mark."""
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=quality)
    return Image.open(out)


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Resampling.BICUBIC)


def crop(image: Image.Image) -> Image.Image:
    """Nine tenths of each side, at an odd place."""
    width, height = image.width * 9 // 10, image.height * 9 // 10
    return image.crop((17, 23, 17 + width, 23 + height))


@pytest.mark.parametrize("make", [photo, icon])
@pytest.mark.parametrize(
    "change", [lambda image: image, jpeg, half, crop, lambda image: crop(image).resize((512, 512))]
)
def test_found_with_its_id(
    make: Callable[[], Image.Image], change: Callable[[Image.Image], Image.Image]
) -> None:
    found = MARK.detect(change(MARK.embed(make(), IDENT)))
    assert found.present
    assert found.ident == IDENT
    assert IDENT in found.detail


def test_found_in_the_smallest_picture_that_may_hold_it() -> None:
    marked = MARK.embed(photo(MIN_SIDE), IDENT)
    assert MARK.detect(marked).ident == IDENT
    assert MARK.detect(jpeg(marked)).ident == IDENT


def test_found_in_any_shape() -> None:
    wide = photo().resize((900, 300))
    assert MARK.detect(MARK.embed(wide, IDENT)).ident == IDENT


@pytest.mark.parametrize("make", [photo, icon])
def test_not_found_without_it_nor_under_another_key(make: Callable[[], Image.Image]) -> None:
    assert MARK.detect(make()).score < PRESENT
    other = Watermark(PUBLIC_KEY).embed(make(), IDENT)
    found = MARK.detect(other)
    assert not found.present
    assert found.ident is None
    assert "needed" in found.detail


def test_a_picture_of_one_colour_has_no_mark() -> None:
    assert MARK.detect(Image.new("RGB", (300, 300), "white")).score < PRESENT
    assert MARK.detect(Image.new("L", (40, 7))).score < PRESENT


@pytest.mark.parametrize("make", [photo, icon])
def test_hardly_changes_the_picture(make: Callable[[], Image.Image]) -> None:
    before = np.asarray(make(), dtype=float)
    change = np.abs(before - np.asarray(MARK.embed(make(), IDENT), dtype=float))
    assert 10 * np.log10(255**2 / np.mean(change**2)) > 38  # PSNR, dB
    assert change.mean() < 2
    assert np.percentile(change, 99.9) <= 13


@pytest.mark.parametrize("make", [photo, icon, noise])
def test_two_marks_alone_do_not_pass_for_a_lora_at_work(make: Callable[[], Image.Image]) -> None:
    for side in (MIN_SIDE, 512):
        image = make().resize((side, side))
        first, second = (np.asarray(MARK.embed(image, i), float) for i in (IDENT, "ffffff"))
        assert 0 < np.abs(first - second).mean() < 0.85 * MARKED_DIFFERENCE


def test_equal_pictures_get_equal_marks() -> None:
    assert np.array_equal(MARK.embed(photo(), IDENT), MARK.embed(photo(), IDENT))


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="255×300"):
        MARK.embed(Image.new("RGB", (255, 300)), IDENT)
