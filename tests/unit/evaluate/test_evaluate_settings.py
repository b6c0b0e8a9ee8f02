"""Which of several tried settings is recommended."""

from __future__ import annotations

import pytest

from lora_factory.contracts.evaluation import SettingTrial
from lora_factory.evaluate.settings import BLIND_MARGIN, MARGIN, pick, quality


def trial(
    strength: float, steps: int, style: float, alignment: float | None = None
) -> SettingTrial:
    return SettingTrial(
        strength=strength, steps=steps, style=style, alignment=alignment, seconds=0.1
    )


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        # The best by far.
        ([trial(0.7, 10, 0.5), trial(1.0, 20, 0.9), trial(1.3, 20, 0.6)], (1.0, 20)),
        # As good in half the steps.
        ([trial(1.0, 10, 0.9 - BLIND_MARGIN / 2), trial(1.0, 20, 0.9)], (1.0, 10)),
        ([trial(1.0, 10, 0.9 - MARGIN / 2, 0.9), trial(1.0, 20, 0.9, 0.9)], (1.0, 10)),
        # Better in twice the steps, by more than the margin.
        ([trial(1.0, 10, 0.7), trial(1.0, 20, 0.9)], (1.0, 20)),
        ([trial(1.0, 10, 0.8, 0.8), trial(1.0, 20, 0.9, 0.9)], (1.0, 20)),
        # A stronger style, but subjects are unseen: strength 1 stays unless much is gained.
        ([trial(0.7, 20, 0.9), trial(1.0, 20, 0.9), trial(1.3, 20, 0.97)], (1.0, 20)),
        ([trial(1.0, 20, 0.5), trial(1.3, 20, 0.9)], (1.3, 20)),
        # Readable alignment lost at a high strength outweighs the style gained.
        ([trial(1.0, 20, 0.8, 0.8), trial(1.3, 20, 1.0, 0.3)], (1.0, 20)),
        # Nothing works: still an answer, and the trials show how bad it is.
        ([trial(0.7, 10, 0.0), trial(1.0, 10, 0.0)], (1.0, 10)),
    ],
)
def test_the_cheapest_of_the_good_ones(
    trials: list[SettingTrial], expected: tuple[float, int]
) -> None:
    found = pick(trials)
    assert (found.strength, found.steps) == expected


def test_quality_counts_alignment_only_where_it_was_read() -> None:
    assert quality(trial(1.0, 20, 0.64)) == pytest.approx(0.64)
    assert quality(trial(1.0, 20, 0.64, 0.25)) == pytest.approx(0.4)
