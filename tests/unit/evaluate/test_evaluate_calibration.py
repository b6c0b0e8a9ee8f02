"""Calibrations are found by scorer and base, and nothing passes without one."""

from pathlib import Path

import pytest

from lora_factory.contracts.evaluation import (
    Calibration,
    CalibrationNote,
    Constants,
    HardGate,
    Scale,
)
from lora_factory.errors import ModelError
from lora_factory.evaluate.calibration import (
    FOLDER,
    constants_of,
    find_calibration,
    note_of,
)
from lora_factory.evaluate.evaluator import Evaluation
from lora_factory.evaluate.verdict import verdict_of, zero_note

FITTED = Calibration(
    scorer="sha256:s",
    fitted_on=("one", "two"),
    reported_on=("three",),
    good=9,
    sabotaged=30,
    auc=0.97,
    constants=Constants(fidelity=Scale(zero=0.1, one=0.8)),
)


def keep(folder: Path, name: str, **changes: object) -> None:
    calibration = FITTED.model_copy(update=changes)
    (folder / f"{name}.json").write_text(calibration.model_dump_json())


def test_it_is_found_by_the_scorers_revision(tmp_path: Path) -> None:
    keep(tmp_path, "mine")
    keep(tmp_path, "other", scorer="sha256:t")
    assert find_calibration("sha256:s", "any", tmp_path) == FITTED
    assert find_calibration("sha256:u", "any", tmp_path) is None
    assert find_calibration("sha256:s", "any", tmp_path / "none") is None


def test_it_may_hold_for_some_bases_only(tmp_path: Path) -> None:
    keep(tmp_path, "mine", bases=("sha256:b",))
    assert find_calibration("sha256:s", "sha256:b", tmp_path) is not None
    assert find_calibration("sha256:s", "sha256:c", tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"auc": 2}'])
def test_a_damaged_file_is_an_error_not_a_default(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ModelError, match=r"mine\.json can't be read"):
        find_calibration("sha256:s", "any", tmp_path)


def test_two_for_one_scorer_are_an_error(tmp_path: Path) -> None:
    keep(tmp_path, "a")
    keep(tmp_path, "b")
    with pytest.raises(ModelError, match=r"a\.json and b\.json are for the same"):
        find_calibration("sha256:s", "any", tmp_path)


def test_what_is_used_and_told_of_it() -> None:
    assert constants_of(FITTED).fidelity == Scale(zero=0.1, one=0.8)
    assert constants_of(None) == Constants()
    note = note_of(FITTED)
    assert type(note) is CalibrationNote
    assert note.auc == 0.97
    assert note_of(None) is None


def test_the_files_of_the_package_can_be_read() -> None:
    assert find_calibration("no such scorer", "no such base", FOLDER) is None


@pytest.mark.parametrize("calibration", [None, FITTED])
@pytest.mark.parametrize(
    ("low", "overall", "gate", "failed"),
    [
        (0.86, 0.90, True, False),
        (0.85, 0.85, True, False),
        (0.84, 0.99, True, True),  # the estimate alone doesn't pass
        (0.99, 0.99, False, True),  # no average outweighs a gate
        (0.10, 0.20, False, True),
    ],
)
def test_the_verdicts_rule(
    calibration: Calibration | None, low: float, overall: float, gate: bool, failed: bool
) -> None:
    found = Evaluation((), overall, low, (HardGate(name="effect", passed=gate),), None)
    expected = "fail" if failed else "needs_person" if calibration is None else "pass"
    assert verdict_of(found, 0.85, calibration) == expected


def test_what_a_score_of_zero_hides_is_told() -> None:
    """A weak LoRA's typicality is 0, and so is the geometric mean: the others are told apart."""
    note = zero_note({"fidelity": 0.81, "diversity": 0.49, "typicality": 0.0})
    assert note == (
        "overall is 0 because of typicality, whatever the others are: fidelity, diversity alone "
        "make 0.63"
    )
    assert zero_note({"fidelity": 0.81, "typicality": 0.2}) == ""
    assert zero_note({"fidelity": 0.0}) == ""
