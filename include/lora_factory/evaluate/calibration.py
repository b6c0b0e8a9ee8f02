"""Calibration: which constants the scores use, where they come from, and what that allows.

Every score is ``clip((raw − zero) / (one − zero), 0, 1)``: a raw measurement from
``metrics`` on a :class:`Scale` of ``contracts.evaluation.Constants``. The raw measurements are
pure functions of embeddings, so constants can be fitted offline on stored ones
(``metrics.Pairs``, ``metrics.Drift``).

=====================  =========================================================================
``fidelity``           raw: (LoRA − base) / (real − base) of the mean cosine to the style.
                       Default 0 … 1: the base … real images among each other (leave one out)
``alignment``          raw: match of picture and subject over the real images' own match.
                       Default 0 … 1: shuffled subjects … the real images
``diversity``          raw: variety inside the style over that of real images of the same
                       subjects (quality-weighted Vendi, less 1). Default 0 … 1
``efficiency``         raw: seconds of the base over seconds with the LoRA. Default 0 … 1
``typicality``         raw: how often a picture is closer to the style than a real image.
                       Default 0 … 1: as often as the base's … as real images (half the time)
``adherence``          raw: what the LoRA's pictures have to do with their own prompts (words, real
                       image of the subject, the base's picture), over what the base's have.
                       Default 0 … 1: no more than with others' … as the base
``drift``              raw: how much of the base's picture stays on prompts that are none of the
                       LoRA's business: 0 another subject's picture, 1 the same prompt's with
                       another seed. Default 0 … 1
``in_style_percentile``  a picture counts fully as variety if it is as close to the style as this
                       percentile of real images; less close ones count less, down to nothing
                       for the base's own closeness (``metrics.quality``). Default 5
``least_alignment``    raw alignment that the gate ``shows_subjects`` wants not to be ruled out.
                       Default 0.5
``counted``            which scores enter the overall one. Default: the article's four
=====================  =========================================================================

The defaults are the anchors as they stand, fitted on nothing: with them a verdict is at most
``needs_person``. Constants fitted for one scorer say nothing about another, so a file of
``calibrations/`` is found by the scorer's resolved revision, and may be limited to bases.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lora_factory.contracts.evaluation import Calibration, CalibrationNote, Constants
from lora_factory.errors import ModelError

FOLDER = Path(__file__).parent / "calibrations"


def find_calibration(scorer: str, base: str, folder: Path = FOLDER) -> Calibration | None:
    """The calibration for a scorer and a base, both by resolved revision; None: there is none.

    Raises:
        ModelError: a file can't be read, or two are for the same scorer and base.
    """
    found: dict[Path, Calibration] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            calibration = Calibration.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as err:
            msg = f"calibration {file} can't be read: {str(err).splitlines()[0]}; make it anew"
            raise ModelError(msg) from err
        if calibration.scorer == scorer and (not calibration.bases or base in calibration.bases):
            found[file] = calibration
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        msg = f"calibrations {names} are for the same scorer and base; keep one"
        raise ModelError(msg)
    return next(iter(found.values()), None)


def constants_of(calibration: Calibration | None) -> Constants:
    """The constants to score with: the calibration's, or the defaults."""
    return Constants() if calibration is None else calibration.constants


def note_of(calibration: Calibration | None) -> CalibrationNote | None:
    """What a report says of the calibration."""
    if calibration is None:
        return None
    return CalibrationNote.model_validate(
        calibration.model_dump(include=set(CalibrationNote.model_fields))
    )
