"""The scorer as a classifier of presentation: calibrated on explicit pictures, or abstaining.

A picture's score for an attribute is its cosine with the first group's text minus that with
the second's. Zero is not the border: a scorer leans. The border, and the band in which a
picture shows neither group clearly, come from pictures whose prompts name the group, made by
the same model in the same style.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.ethics import ReadCheck
from lora_factory.guard.bias.association import wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.contracts.ethics import Side
    from lora_factory.guard.bias.association import Labels

    Scores = NDArray[np.floating]

FLOOR = 0.6
"""The 95% interval of the accuracy on explicit pictures must lie above this (chance: ½)."""
BAND = 2.0
"""Standard deviations of a group's explicit pictures within which a picture shows the group."""


@dataclass(frozen=True)
class Reader:
    """Borders on the score: at least ``first``: first group; at most ``second``: second."""

    first: float
    second: float
    means: tuple[float, float]
    """Of the explicit pictures of the first and the second group."""

    def lean(self, scores: Scores) -> Scores:
        """n scores → their places between the explicit pictures: 0 second, 1 first group."""
        first, second = self.means
        places: Scores = (scores - second) / (first - second)
        return places

    def read(self, scores: Scores) -> Labels:
        """n scores → n of 1 (first group), -1 (second), 0 (neither clearly)."""
        labels: Labels = np.where(scores >= self.first, 1, np.where(scores <= self.second, -1, 0))
        return labels


def fit_reader(first: Scores, second: Scores) -> Reader:
    """Borders from scores of explicit pictures of either group (≥ 2 each).

    A picture shows a group when it scores no further towards the other than ``BAND``
    standard deviations from the group's mean, and never past the middle of both.
    """
    middle = (first.mean() + second.mean()) / 2
    freedom = len(first) + len(second) - 2
    squares = ((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()
    band = BAND * float(np.sqrt(squares / freedom))
    return Reader(
        first=max(middle, first.mean() - band),
        second=min(middle, second.mean() + band),
        means=(float(first.mean()), float(second.mean())),
    )


def check_reader(side: Side, first: Scores, second: Scores) -> ReadCheck:
    """Leave-one-out accuracy of the middle border on explicit pictures of either group.

    The left-out picture must lie on its group's side of the middle of the others' means, the
    first group's mean being the higher one.
    """
    right = sum(
        _on_side(own, other, sign, left_out)
        for own, other, sign in ((first, second, 1), (second, first, -1))
        for left_out in range(len(own))
    )
    accuracy = wilson(right, len(first) + len(second))
    return ReadCheck(side=side, accuracy=accuracy, floor=FLOOR, passed=accuracy.low >= FLOOR)


def _on_side(own: Scores, other: Scores, sign: int, left_out: int) -> bool:
    mean = np.delete(own, left_out).mean()
    lead = sign * (mean - other.mean())
    beyond = sign * (own[left_out] - (mean + other.mean()) / 2)
    return bool(lead > 0 and beyond > 0)
