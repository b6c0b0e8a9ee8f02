"""Role text_detector: writing is found by its share; weights are pinned; the role may be empty."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.profiles import RoleModel, load_profile
from lora_factory.models.text_detectors import PaddleDetector, text_detector


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
