"""Image filter: the role ``content_filter`` and its threshold, the same at data, evaluation
and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.models.content_filters import content_filter

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import Profile
    from lora_factory.models.roles import ContentFilter

UNSAFE_IMAGE = "unsafe_image"


@dataclass(frozen=True)
class Finding:
    """What the guard thinks of one picture.

    ``rule`` names what speaks against it, and is empty when it is allowed. ``score`` is that
    rule's (in [0, 1], higher is worse); ``detail`` is one line for an audit or a gate.
    """

    allowed: bool
    rule: str
    score: float
    detail: str


class ImageFilter:
    """Sexual content and whatever else the role's model sees."""

    def __init__(self, model: ContentFilter) -> None:
        self.name = model.name
        self._model = model

    def check(self, images: Sequence[Image]) -> list[Finding]:
        """One finding a picture, in order; n RGB images of any size."""
        threshold = self._model.threshold
        return [
            # Not `score >= threshold`: a score that is no number is not a pass.
            Finding(True, "", score, "")
            if score < threshold
            else Finding(
                False,
                UNSAFE_IMAGE,
                score,
                f"content filter {score:.3f} (unsafe from {threshold:g})",
            )
            for score in map(float, self._model.scores(images))
        ]


def image_filter(profile: Profile, settings: Settings) -> ImageFilter:
    """The filter that a profile's role ``content_filter`` makes.

    Raises:
        ConfigurationError: the profile doesn't fill the role.
        ModelError: its model is missing, damaged, or not the pinned one: nothing passes.
    """
    return ImageFilter(content_filter(profile, settings.threads))
