"""Copy detection: calibrated on originals, it finds copies and leaves relatives alone."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from lora_factory.guard.copying import CopyDetector, perceptual_hashes

RNG = np.random.default_rng(5)


def pictures(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """White icons with a few black shapes."""
    made = []
    for _ in range(count):
        image = Image.new("RGB", (64, 64), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(4):
            x, y = rng.integers(4, 40, size=2)
            w, h = rng.integers(6, 22, size=2)
            draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
            draw((int(x), int(y), int(x + w), int(y + h)), outline="black", width=4)
        made.append(image)
    return made


def embed(images: list[Image.Image]) -> np.ndarray:
    """Unit vectors that vary smoothly with the pixels: a stand-in for a scorer's space."""
    flat = np.array([np.asarray(i.convert("L").resize((12, 12))) for i in images], dtype=float)
    flat = flat.reshape(len(images), 144)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def train() -> list[Image.Image]:
    return pictures(60, np.random.default_rng(1))


@pytest.fixture(scope="module")
def detector(train: list[Image.Image]) -> CopyDetector:
    held = pictures(20, np.random.default_rng(2))
    return CopyDetector(
        embed(train), perceptual_hashes(train), embed(held), perceptual_hashes(held)
    )


def test_a_training_image_with_noise_is_a_copy_of_itself(
    detector: CopyDetector, train: list[Image.Image]
) -> None:
    noisy = []
    for image in train[:12]:
        pixels = np.asarray(image).astype(float) + RNG.normal(0, 6, size=(64, 64, 3))
        made = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        noisy.append(ImageEnhance.Contrast(made).enhance(0.95))
    found = detector.nearest(embed(noisy), perceptual_hashes(noisy))
    assert [one.index for one in found] == list(range(12))
    assert all(one.copied for one in found)


def test_other_originals_are_hardly_ever_copies(detector: CopyDetector) -> None:
    others = pictures(200, np.random.default_rng(3))
    found = detector.nearest(embed(others), perceptual_hashes(others))
    assert sum(one.copied for one in found) <= 8  # at most 2% by calibration


def test_a_mirrored_copy_is_a_copy(detector: CopyDetector, train: list[Image.Image]) -> None:
    """Training mirrors images at random, so that a memorised one may come out mirrored."""
    mirrored = [ImageOps.mirror(image) for image in train[:12]]
    found = detector.nearest(embed(train[:12]), perceptual_hashes(mirrored))
    assert all(one.copied for one in found)


def test_both_views_must_agree(detector: CopyDetector, train: list[Image.Image]) -> None:
    far_hash = ~perceptual_hashes(train[:1])
    assert not detector.nearest(embed(train[:1]), far_hash)[0].copied
    assert not detector.nearest(-embed(train[:1]), perceptual_hashes(train[:1]))[0].copied


def test_an_exact_copy_is_found_even_when_the_set_holds_twins() -> None:
    twins = pictures(6, np.random.default_rng(4)) * 2
    detector = CopyDetector(
        embed(twins), perceptual_hashes(twins), embed([]), perceptual_hashes([])
    )
    found = detector.nearest(embed(twins[:3]), perceptual_hashes(twins[:3]))
    assert all(one.copied for one in found)


def test_one_training_image_cannot_calibrate(train: list[Image.Image]) -> None:
    one = train[:1]
    with pytest.raises(ValueError, match="needs 2 training images"):
        CopyDetector(embed(one), perceptual_hashes(one), embed(one), perceptual_hashes(one))
