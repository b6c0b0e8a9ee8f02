"""What goes out: a pass, or what only a person may decide on and one did."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lora_factory.contracts.evaluation import Advice, EvaluationReport, HardGate
from lora_factory.contracts.specs import DeploySpec
from lora_factory.deploy.stage import refuse
from lora_factory.errors import ReleaseError

CLOSED = (HardGate(name="no_copies", passed=False),)


def report(**changes: Any) -> EvaluationReport:
    values: dict[str, Any] = {
        "verdict": "pass",
        "overall": 0.9,
        "overall_low": 0.88,
        "threshold": 0.85,
        "metrics": (),
        "gates": (),
        "advice": Advice(),
        "prompts": (),
        "trigger": "t",
        "base": "b",
        "scorer": "s",
    }
    return EvaluationReport.model_validate(values | changes)


def test_a_pass_needs_no_person() -> None:
    refuse(report(), None)


def test_what_no_scorer_can_pass_needs_a_persons_name() -> None:
    refuse(report(verdict="needs_person"), "rita at noon")
    with pytest.raises(ReleaseError, match="needs a person") as err:
        refuse(report(verdict="needs_person"), None)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "fail"},
        {"verdict": "pass", "gates": CLOSED},
        {"verdict": "needs_person", "gates": CLOSED},
    ],
)
def test_nobody_can_approve_a_failure(changes: dict[str, Any]) -> None:
    for approved_by in (None, "rita at noon"):
        with pytest.raises(ReleaseError, match="did not pass"):
            refuse(report(**changes), approved_by)


@pytest.mark.parametrize("approved_by", ["", "two\nlines", "x" * 301])
def test_an_approval_is_one_line(approved_by: str) -> None:
    with pytest.raises(ValidationError):
        DeploySpec(lora="l", evaluation="e", name="n", approved_by=approved_by)
