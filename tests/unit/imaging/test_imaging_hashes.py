"""Fingerprints: copies stay inside the limits of sanitize.dedup, different icons never do."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from gallery import coloured, gallery  # type: ignore[import-not-found]
from PIL import Image

from lora_factory.imaging.decode import decode
from lora_factory.imaging.hashes import (
    BITS,
    Fingerprints,
    hamming,
    perceptual_hash,
    sha256_hex,
    thumbnail,
)
from lora_factory.sanitize.dedup import NEAR_BITS, NEAR_RMS


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return decode(out.getvalue())


def assert_copies(originals: list[Image.Image], changed: list[Image.Image]) -> None:
    prints = Fingerprints.of([*originals, *changed])
    first = np.arange(len(originals))
    second = first + len(originals)
    bits = np.array([prints.hamming_to(first[i : i + 1], second[i : i + 1]) for i in first])
    assert bits.max() <= NEAR_BITS
    assert prints.rms(first, second).max() <= NEAR_RMS


@pytest.mark.parametrize("quality", [90, 60, 40])
def test_a_jpeg_stays_a_near_duplicate(quality: int) -> None:
    icons = [*gallery().values(), *coloured()]
    assert_copies(icons, [jpeg(icon, quality) for icon in icons])


@pytest.mark.parametrize("side", [32, 48, 96, 128, 200])
@pytest.mark.parametrize("filter_", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
def test_a_resized_picture_stays_a_near_duplicate(side: int, filter_: Image.Resampling) -> None:
    icons = list(gallery().values())
    assert_copies(icons, [icon.resize((side, side), filter_) for icon in icons])


@pytest.mark.parametrize("images", [list(gallery().values()), coloured()], ids=["icons", "signs"])
def test_different_pictures_are_no_near_duplicates(images: list[Image.Image]) -> None:
    prints = Fingerprints.of(images)
    rows, columns = np.triu_indices(len(images), 1)
    every = np.arange(len(images))
    near_bits = prints.hamming_to(every, every)[rows, columns] <= NEAR_BITS
    near_rms = prints.rms(rows, columns) <= NEAR_RMS
    assert not (near_bits & near_rms).any()


def test_one_measure_alone_would_convict_innocents() -> None:
    """Why there are two: in the same frame, colour is all that tells some signs apart."""
    images = coloured()
    every = np.arange(len(images))
    bits = Fingerprints.of(images).hamming_to(every, every)
    assert (bits[np.triu_indices(len(images), 1)] <= NEAR_BITS).any()


def test_bits_of_the_matrix_are_those_of_the_digits() -> None:
    icons = list(gallery().values())[:6]
    hashes = [perceptual_hash(icon) for icon in icons]
    assert {len(digits) for digits in hashes} == {BITS // 4}
    prints = Fingerprints.of(icons)
    assert len(prints) == 6
    found = prints.hamming_to(np.array([2]), np.arange(6))
    assert found.tolist() == [[hamming(hashes[2], other) for other in hashes]]
    pairs = prints.hamming(np.full(6, 2), np.arange(6))
    assert [pairs.tolist()] == found.tolist()
    again = Fingerprints.stack(hashes, [thumbnail(icon) for icon in icons])
    assert (again.bits == prints.bits).all()
    assert (again.thumbs == prints.thumbs).all()


def test_no_images_make_empty_fingerprints() -> None:
    prints = Fingerprints.of([])
    assert len(prints) == 0
    nothing = np.arange(0)
    assert prints.hamming_to(nothing, nothing).shape == (0, 0)
    assert prints.rms(nothing, nothing).shape == (0,)
    assert prints.hamming(nothing, nothing).shape == (0,)
    assert prints.small().shape == (0, 192)


def test_hamming_by_hand() -> None:
    assert hamming("00", "00") == 0
    assert hamming("0f", "f0") == 8
    assert hamming("01", "03") == 1


@pytest.mark.parametrize(("first", "second"), [("0f", "0"), ("", "0"), ("zz", "00"), ("0f", "é0")])
def test_what_is_no_hash_is_refused(first: str, second: str) -> None:
    with pytest.raises(ValueError, match=r"compared|invalid literal"):
        hamming(first, second)


def test_thumbnail_by_hand() -> None:
    image = Image.new("RGB", (32, 32), "white")
    image.putpixel((0, 0), (255, 0, 0))
    values = thumbnail(image).reshape(16, 16, 3)
    # Four pixels are averaged: three white, one red.
    assert values[0, 0].tolist() == [255, 192, 192]
    assert (values.reshape(-1, 3)[1:] == 255).all()


def test_rms_by_hand() -> None:
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    prints = Fingerprints.of([black, white])
    assert prints.rms(np.array([0, 0]), np.array([1, 0])).tolist() == [1.0, 0.0]


def test_small_thumbnails_are_never_further_apart() -> None:
    prints = Fingerprints.of(coloured())
    first, second = np.triu_indices(len(prints), 1)
    small = prints.small()
    apart = np.linalg.norm(small[first] - small[second], axis=1)
    assert (apart <= prints.rms(first, second) * np.sqrt(192) + 1e-5).all()


def test_sha256() -> None:
    assert sha256_hex(b"abc") == hashlib.sha256(b"abc").hexdigest()
