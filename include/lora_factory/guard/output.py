"""Output guard: what looks at every generated picture before it counts or leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lora_factory.guard.images import Finding, image_filter
from lora_factory.guard.protected import ProtectedFilter, open_index
from lora_factory.models.loaders import image_text_scorer

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import Profile

__all__ = ["Finding", "OutputGuard", "output_guard"]


class Check(Protocol):
    """One rule about pictures."""

    def check(self, images: Sequence[Image]) -> list[Finding]:
        """One finding a picture, in order."""


class OutputGuard:
    """Several checks as one; the first that objects is named.

    Args:
        checks: the most serious first; at least one.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        if not checks:
            msg = "an output guard without checks would let everything pass"
            raise ValueError(msg)
        self._checks = tuple(checks)

    def check(self, images: Sequence[Image]) -> list[Finding]:
        """One finding a picture, in order; n RGB images of any size."""
        found = zip(*(check.check(images) for check in self._checks), strict=True)
        return [next((one for one in row if not one.allowed), row[0]) for row in found]


def output_guard(profile: Profile, settings: Settings, *, protected: bool = True) -> OutputGuard:
    """The guard of a deployment: content, and protected works where there is an index of them.

    ``protected=False`` leaves the works out: an evaluation judges them by how many pictures
    repeat one (``guard.copyright``), since one in fifty may by chance.

    Raises:
        ConfigurationError: the profile fills no role ``content_filter``, or the index of
            protected works can't be used.
        ModelError: a model the guard needs is missing: nothing passes unseen.
    """
    checks: list[Check] = [image_filter(profile, settings)]
    if protected and (index := open_index(profile, settings)) is not None:
        scorer = image_text_scorer(profile)
        checks.append(ProtectedFilter(index, scorer, settings.protected_policy))
    return OutputGuard(checks)
