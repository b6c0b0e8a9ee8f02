"""The verdict, and what a reader must know of the figures that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_factory.evaluate.statistics import geometric_mean

if TYPE_CHECKING:
    from lora_factory.contracts.evaluation import Calibration, CalibrationNote, Verdict
    from lora_factory.evaluate.evaluator import Evaluation

BLIND = "alignment does not count: whether pictures show their subjects is only in a gate"


def verdict_of(found: Evaluation, threshold: float, calibration: Calibration | None) -> Verdict:
    """The rule that :mod:`lora_factory.evaluate.stage` states."""
    if not all(gate.passed for gate in found.gates) or found.overall_low < threshold:
        return "fail"
    return "needs_person" if calibration is None else "pass"


def zero_note(scores: Mapping[str, float]) -> str:
    """What a score of 0 hides in a geometric mean; empty where none is 0.

    Args:
        scores: the counted ones.
    """
    zero = [name for name, score in scores.items() if score <= 0]
    others = {name: score for name, score in scores.items() if score > 0}
    if not zero or not others:
        return ""
    return (
        f"overall is 0 because of {' and '.join(zero)}, whatever the others are: "
        f"{', '.join(others)} alone make {geometric_mean(list(others.values())):.2f}"
    )


def calibration_notes(calibration: CalibrationNote | None) -> tuple[str, ...]:
    """On what the scores' constants rest."""
    people = "not calibrated on people's judgement"
    if calibration is None:
        return (
            f"the scores' constants are defaults, calibrated on nothing with this scorer and "
            f"base, and {people}",
        )
    return (
        f"the scores' constants are fitted on {', '.join(calibration.fitted_on)}; on other styles "
        f"({', '.join(calibration.reported_on)}) the overall score tells {calibration.good} sound "
        f"from {calibration.sabotaged} sabotaged LoRAs with AUC {calibration.auc:.3f}; {people}",
        *([calibration.note] if calibration.note else []),
    )
