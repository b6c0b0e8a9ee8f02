"""Role text_detector: writing is found by its share; weights are pinned; the role may be empty."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.profiles import PACKAGE, RoleModel, load_profile
from lora_factory.models.text_detectors import PaddleDetector, lines_of, text_detector


def page(lines: int) -> Image.Image:
    image = Image.effect_noise((512, 512), 20).convert("RGB")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    for line in range(lines):
        draw.text((10, 10 + 50 * line), "words of a long page", fill="black", font=font)
    return image


def test_the_share_grows_with_the_writing(settings: Settings) -> None:
    detector = text_detector(load_profile("standard", settings), settings)
    assert detector is not None
    shares = detector.shares([page(0), page(1), page(10)])
    assert shares[0] < 0.01 < shares[1] < 0.1 < 0.2 < shares[2] <= 1
    assert detector.shares([]).shape == (0,)


def card(side: int, size: int) -> Image.Image:
    """A small picture full of lines."""
    image = Image.new("RGB", (side, side), (200, 220, 210))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for top in range(2, side - size, round(size * 1.2)):
        draw.text((2, top), "The quick brown fox"[: side // size * 2], fill="black", font=font)
    return image


def test_icons_are_no_writing_and_small_writing_is(settings: Settings) -> None:
    detector = text_detector(load_profile("standard", settings), settings)
    assert detector is not None
    files = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))[:40]
    icons = [Image.open(file).convert("RGB") for file in files]
    limit = 0.2  # SanitizeSpec.max_text
    assert (detector.shares(icons) > limit).sum() <= 1
    assert (detector.shares([icon.resize((256, 256)) for icon in icons[:12]]) > limit).sum() <= 1
    assert (detector.shares([card(64, 10), card(64, 12), card(128, 10)]) > limit).all()


def test_lines_in_any_direction_are_told_from_round_patches() -> None:
    image = Image.new("1", (200, 200))
    draw = ImageDraw.Draw(image)
    draw.rectangle((5, 5, 60, 15), fill=1)
    draw.rectangle((5, 40, 15, 120), fill=1)
    draw.line((100, 10, 180, 90), fill=1, width=12)
    lines = np.asarray(image).copy()
    draw.ellipse((40, 130, 100, 190), fill=1)
    draw.rectangle((120, 130, 170, 165), fill=1)
    image.putpixel((198, 198), 1)
    assert (lines_of(np.asarray(image)) == lines).all()
    assert not lines_of(np.zeros((8, 8), np.bool_)).any()


def test_the_embedded_profile_leaves_it_empty(settings: Settings) -> None:
    assert text_detector(load_profile("embedded", settings), settings) is None


@pytest.mark.parametrize(
    ("package", "message"),
    [("no_such_wheel:models", "not installed"), ("rapidocr:nothing", "can't be read")],
)
def test_without_its_weights_nothing_passes(package: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PaddleDetector(RoleModel(kind="pp-ocr", package=package), 1)


def test_other_weights_are_refused() -> None:
    entry = RoleModel(kind="pp-ocr", package="rapidocr:models", sha256="0" * 64)
    with pytest.raises(ModelError, match="not the profile's 000000000000…"):
        PaddleDetector(entry, 1)


def test_another_kind_is_refused(settings: Settings) -> None:
    profile = load_profile("embedded", settings)
    roles = {**profile.roles, "text_detector": RoleModel(kind="composed")}
    with pytest.raises(ConfigurationError, match="use pp-ocr"):
        text_detector(profile.model_copy(update={"roles": roles}), settings)
