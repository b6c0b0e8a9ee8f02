"""The calibration of the embedded scorer, on styles that no constant was fitted on.

Without training: the adapters are kept (``adapters/``, made by ``make.py``), and so is what the
scorer saw of their pictures (``data/seen``, made by ``fit.py``). The slow test draws again.
"""

from __future__ import annotations

from pathlib import Path

import fit
import pytest
from calibration_cases import SABOTAGES, Case, cases
from calibration_measure import SPEC, Rig
from calibration_styles import STYLES, icons

from lora_factory.contracts.evaluation import Calibration
from lora_factory.evaluate.calibration import find_calibration

MAX_BYTES = 1_000_000
ALL_BYTES = 38_000_000
"""Adapters of 0.54 MB: 56 for eight styles, and 6 or 7 for a witness, which none of those is."""


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """The one in use; there is none when scorer or base changed and nobody calibrated anew."""
    found = find_calibration(*fit.revisions())
    assert found is not None, "run tests/calibration/fit.py: scorer or base have changed"
    return found


@pytest.fixture(scope="module")
def reported() -> list[fit.Judged]:
    return fit.judge(None, "report", kept=fit.KEPT)


def test_the_figure_in_the_calibration_is_what_comes_out(
    calibration: Calibration, reported: list[fit.Judged]
) -> None:
    found = fit.auc_of(reported, calibration.constants)
    assert found == pytest.approx(calibration.auc, abs=0.005), fit.table(
        reported, calibration.constants
    )


def test_sound_and_sabotaged_adapters_are_told_apart(
    calibration: Calibration, reported: list[fit.Judged]
) -> None:
    assert fit.auc_of(reported, calibration.constants) >= fit.GOAL


def test_without_typicality_overtrained_adapters_are_not_seen(
    calibration: Calibration, reported: list[fit.Judged]
) -> None:
    """What the fifth score is for; nothing is fitted here."""
    constants = calibration.constants
    others = tuple(name for name in constants.counted if name != "typicality")
    without = constants.model_copy(update={"counted": others})
    assert fit.auc_of(reported, constants) > fit.auc_of(reported, without) + 0.02


def test_the_first_look_is_kept_as_it_was(calibration: Calibration) -> None:
    """Whatever it says: no goal is asked of it here, and no constant has seen these styles."""
    if calibration.first_look is None:
        pytest.skip("no look at the witnesses since the constants were fitted: fit.py --witness")
    witnesses = fit.judge(None, "witness", kept=fit.KEPT)
    assert calibration.first_look == fit.first_look(witnesses, calibration.constants)
    assert not {*calibration.first_look.styles} & {
        *calibration.fitted_on,
        *calibration.reported_on,
    }


@pytest.mark.parametrize("kind", SABOTAGES)
def test_no_sabotaged_adapter_passes(
    kind: str, calibration: Calibration, reported: list[fit.Judged]
) -> None:
    some = [one for one in reported if one.case.kind == kind]
    assert len(some) >= 3
    passed = [one.case.name for one in some if one.score(calibration.constants) >= SPEC.threshold]
    assert not passed


def test_the_constants_are_what_the_rules_make_of_the_fitted_styles(
    calibration: Calibration,
) -> None:
    found = fit.fit(fit.judge(None, "fit", kept=fit.KEPT))
    assert found == calibration.constants


def test_reported_styles_never_entered_the_fit(calibration: Calibration) -> None:
    assert set(calibration.fitted_on) == {style.name for style in STYLES if style.use == "fit"}
    assert set(calibration.reported_on) == {style.name for style in STYLES if style.use == "report"}
    seen = [{*icons(style.name).pictures} for style in STYLES]
    assert sum(map(len, seen)) == len(set.union(*seen))  # no icon lies in two styles


def test_adapters_stay_small() -> None:
    sizes = [file.stat().st_size for file in Path(fit.__file__).parent.rglob("*.safetensors")]
    assert max(sizes) <= MAX_BYTES
    assert sum(sizes) <= ALL_BYTES


@pytest.mark.slow
def test_drawing_again_gives_what_is_kept(
    tmp_path: Path, calibration: Calibration, reported: list[fit.Judged]
) -> None:
    """Through the evaluator itself, with pictures drawn here."""
    rig = Rig(tmp_path)
    kept = {one.case.name: one for one in reported}
    for case in _some():
        found = rig.evaluation(case, calibration.constants)
        closed = {gate.name for gate in found.gates if not gate.passed}
        assert closed == set(kept[case.name].closed(calibration.constants)), case.name
        low = kept[case.name].low(calibration.constants)
        assert found.overall_low == pytest.approx(low, abs=0.05), case.name


def _some() -> list[Case]:
    """A sound adapter and each sabotage of one style."""
    chosen: dict[str, Case] = {}
    for case in cases("report"):
        if case.style.name == "mdi":
            chosen.setdefault(case.kind, case)
    return list(chosen.values())
