"""The output guard: what it says of a picture, and that doubt is never a pass.

No unsafe pictures are kept: what happens to one is tested with a stub in the model's place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.guard.images import Finding, ImageFilter
from lora_factory.guard.output import OutputGuard, output_guard
from lora_factory.models.profiles import load_profile

IMAGES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]


class Scorer:
    """In the model's place: gives the scores it was made with."""

    name, threshold = "stub@1", 0.5

    def __init__(self, *scores: float) -> None:
        self._scores = scores

    def scores(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        assert len(images) == len(self._scores)
        return np.array(self._scores, dtype=np.float32)


def test_a_picture_is_unsafe_from_the_threshold_on() -> None:
    low, at, high = ImageFilter(Scorer(0.25, 0.5, 0.75)).check(IMAGES)
    assert low == Finding(allowed=True, rule="", score=0.25, detail="")
    assert (at.allowed, at.rule, at.score) == (False, "unsafe_image", 0.5)
    assert high == Finding(
        allowed=False,
        rule="unsafe_image",
        score=0.75,
        detail="content filter 0.750 (unsafe from 0.5)",
    )


def test_a_score_that_is_no_number_is_no_pass() -> None:
    first, _, _ = ImageFilter(Scorer(float("nan"), 0, 0)).check(IMAGES)
    assert not first.allowed


def test_the_first_check_that_objects_is_named() -> None:
    class Second:
        def check(self, images: Sequence[Image.Image]) -> list[Finding]:
            return [Finding(False, "protected_work", 1.0, "of a") for _ in images[:2]] + [
                Finding(True, "", 0.0, "")
            ]

    guard = OutputGuard([ImageFilter(Scorer(0.9, 0.1, 0.2)), Second()])
    found = guard.check(IMAGES)
    assert [one.rule for one in found] == ["unsafe_image", "protected_work", ""]
    assert found[2].score == pytest.approx(0.2)


def test_a_check_that_misses_a_picture_is_an_error() -> None:
    class Short:
        def check(self, images: Sequence[Image.Image]) -> list[Finding]:
            return [Finding(True, "", 0.0, "")] * (len(images) - 1)

    with pytest.raises(ValueError, match="shorter"):
        OutputGuard([ImageFilter(Scorer(0, 0, 0)), Short()]).check(IMAGES)


def test_without_checks_there_is_no_guard() -> None:
    with pytest.raises(ValueError, match="let everything pass"):
        OutputGuard([])


def test_the_embedded_guard_lets_plain_pictures_pass() -> None:
    guard = output_guard(load_profile("embedded", Settings()), Settings(threads=1))
    assert all(found.allowed for found in guard.check(IMAGES))
    assert guard.check([]) == []


def test_a_missing_model_is_an_error_not_a_guard() -> None:
    profile = load_profile("embedded", Settings())
    entry = profile.role("content_filter").model_copy(update={"package": "no_such_wheel:"})
    lost = profile.model_copy(update={"roles": profile.roles | {"content_filter": entry}})
    with pytest.raises(ModelError, match="pip install it"):
        output_guard(lost, Settings())
    none = profile.model_copy(update={"roles": {}})
    with pytest.raises(ConfigurationError, match="content_filter"):
        output_guard(none, Settings())
