"""Quality: healthy pictures pass, each kind of sabotage is caught by its name."""

from __future__ import annotations

import numpy as np
import pytest
from gallery import coloured, gallery  # type: ignore[import-not-found]
from PIL import Image, ImageDraw, ImageFilter

from lora_factory.imaging.quality import MIN_SHARPNESS, measure, sharpness


def problem(image: Image.Image, min_side: int = 32, max_aspect: float = 3.0) -> str | None:
    return measure(image).problem(min_side=min_side, max_aspect=max_aspect)


def icon() -> Image.Image:
    return gallery()["cat"]


def photo() -> Image.Image:
    """Smooth shapes with grain, like a photograph; 300 × 200."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:200, 0:300] / 100
    shape = np.stack([np.sin(3 * x + y), np.cos(2 * y * x), np.sin(x - 4 * y)], axis=-1)
    pixels = 127 + 90 * shape + rng.normal(0, 14, shape.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_the_icons_are_healthy() -> None:
    found = {name: problem(image) for name, image in gallery().items()}
    assert {name: reason for name, reason in found.items() if reason} == {}


def test_coloured_signs_and_photographs_are_healthy() -> None:
    images = [*coloured(), *coloured(256), photo(), photo().resize((2000, 1333))]
    assert [problem(image) for image in images] == [None] * len(images)


@pytest.mark.parametrize("side", [48, 64, 128, 512])
def test_a_line_icon_is_healthy_at_any_size(side: int) -> None:
    assert problem(icon().resize((side, side), Image.Resampling.LANCZOS)) is None


@pytest.mark.parametrize("colour", ["white", "black", "teal", (128, 128, 128)])
def test_uniform_pictures(colour: str) -> None:
    assert problem(Image.new("RGB", (64, 64), colour)) == "uniform"
    speck = Image.new("RGB", (64, 64), colour)
    speck.putpixel((5, 5), (255, 0, 0))
    assert problem(speck) == "uniform"


def test_a_faint_gradient_is_uniform() -> None:
    ramp = np.tile(np.linspace(120, 135, 64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    assert problem(Image.fromarray(ramp)) == "uniform"


def test_dark_and_light_pictures() -> None:
    assert problem(photo().point(lambda level: level * 0.19)) == "too_dark"
    night = Image.new("RGB", (64, 64))
    ImageDraw.Draw(night).rectangle((8, 8, 40, 40), fill=(45, 45, 45))
    assert problem(night) == "too_dark"
    fog = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(fog).rectangle((8, 8, 40, 40), fill=(229, 232, 229))
    assert problem(fog) is None
    ImageDraw.Draw(fog).rectangle((8, 8, 40, 40), fill=(235, 238, 235))
    assert problem(fog) == "too_light"
    assert problem(icon().point(lambda level: 232 + level * 23 / 255)) == "too_light"
    # Pure yellow on white is pale to the eye and dark in blue.
    sun = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sun).ellipse((16, 16, 48, 48), fill="yellow")
    assert problem(sun) is None


@pytest.mark.parametrize("radius", [5, 8])
def test_blurred_pictures(radius: int) -> None:
    names = list(gallery())[::10]
    big = [gallery()[name].resize((256, 256), Image.Resampling.LANCZOS) for name in names]
    blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for image in big]
    assert {problem(image) for image in blurred} == {"blurred"}
    assert problem(photo().filter(ImageFilter.GaussianBlur(radius))) == "blurred"


def test_sharpness_falls_with_blur_as_documented() -> None:
    edge = Image.new("L", (128, 128), 255)
    edge.paste(0, (0, 0, 64, 128))
    assert sharpness(edge) == pytest.approx(1.0)
    for sigma in (2.0, 4.0):
        soft = sharpness(edge.filter(ImageFilter.GaussianBlur(sigma)))
        assert soft == pytest.approx(0.4 / sigma, rel=0.15)
    assert MIN_SHARPNESS > 0.4 / 8


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 1), "too_small"),
        ((31, 64), "too_small"),
        ((32, 32), None),
        ((64, 192), None),
        ((64, 193), "extreme_aspect"),
        ((2000, 40), "extreme_aspect"),
    ],
)
def test_size_and_shape(size: tuple[int, int], reason: str | None) -> None:
    checks = Image.effect_noise(size, 120).convert("RGB")
    assert problem(checks) == reason


def test_limits_are_the_callers() -> None:
    assert problem(icon(), min_side=65) == "too_small"
    wide = Image.effect_noise((64, 500), 120).convert("RGB")
    assert problem(wide, max_aspect=8) is None


def test_measures_by_hand() -> None:
    image = Image.new("RGB", (40, 80), "white")
    image.paste((0, 0, 0), (0, 0, 40, 20))
    quality = measure(image)
    assert (quality.side, quality.aspect) == (40, 2.0)
    assert (quality.brightest, quality.darkest) == (1.0, 0.0)
    assert quality.ink == 0.25
    assert sharpness(Image.new("L", (1, 1))) == 0.0
