"""Fits the constants of the scores on four styles and says how they do on four others.

::

    PYTHONPATH=include:tests:tests/calibration python tests/calibration/fit.py

Draws with every adapter (about 10 s each on a core, once: pictures and embeddings stay in
``build/calibration``), writes ``evaluate/calibrations/emoji-clip.json`` and prints the table.
With ``--witness`` it fits nothing: it adds what the witness styles say of the constants in that
file. Who then changes anything because of it needs new witnesses.

Rules, written down before they were applied to a reported style:

* ``fidelity``, ``diversity``, ``adherence`` and ``drift``: one = the median sound adapter of the
  fitted styles, but never above the anchor (1); zero stays the anchor.
* ``typicality``, whose interval is wide: one = what four of five sound adapters reach with the
  lower end of their 95% interval, which is what a verdict rests on; zero stays the anchor.
* ``alignment``: zero = the mean raw alignment of shuffled captions, one = the median sound
  adapter's, at most 1.
* ``least_alignment``: the highest that closes ``shows_subjects`` for no sound adapter, at most
  the default.
* ``counted``: fidelity, diversity, efficiency, and of alignment, typicality and drift those with
  which sound and sabotaged adapters are told apart best, each fitted style judged by constants
  fitted on the other three. Adherence is for the gate ``shows_subjects`` and doesn't count: tried,
  see ADR 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from calibration_cases import SABOTAGES, Case, cases
from calibration_measure import SPEC, Rig, Seen
from calibration_styles import Use

from lora_factory.contracts.evaluation import (
    Calibration,
    Constants,
    FirstLook,
    MetricName,
    Scale,
)
from lora_factory.evaluate import gates, metrics
from lora_factory.evaluate.calibration import FOLDER
from lora_factory.evaluate.evaluator import abstains
from lora_factory.evaluate.statistics import geometric_means, interval, resample, with_estimate

KEPT = Path(__file__).parent / "data" / "seen"
"""What the scorer saw of all cases, for refits and tests without drawing."""
TARGET = FOLDER / "emoji-clip.json"
SCALED: tuple[MetricName, ...] = (
    *("fidelity", "alignment", "diversity", "typicality", "adherence", "drift"),
)
ALWAYS: tuple[MetricName, ...] = ("fidelity", "diversity", "efficiency")
CHOSEN: tuple[MetricName, ...] = ("alignment", "typicality", "drift")
"""What counts if it helps."""
GOAL = 0.95
REACHED = 0.8
"""Share of sound adapters that score 1 in typicality with their lower end."""
CUT = 0.84
"""Standard errors that p = ``gates.UNMATCHED`` lies above chance."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A case with its raw measurements, bootstrapped as the evaluator does."""

    case: Case
    seen: Seen

    @cached_property
    def raw(self) -> dict[str, np.ndarray]:
        """Metric → 1 + B raw values."""
        rng = np.random.default_rng(SPEC.seed)
        weights = with_estimate(resample(len(self.seen.pairs.anchor), 1, rng))
        others = with_estimate(resample(len(self.seen.drift.base), 1, rng))
        pairs = self.seen.pairs
        return {
            "fidelity": metrics.raw_fidelity(pairs, weights),
            "alignment": metrics.raw_alignment(pairs, weights),
            "diversity": metrics.raw_diversity(pairs, Constants().in_style_percentile, weights),
            "efficiency": np.ones(len(weights)),  # its speed tells not whether it is sound
            "typicality": metrics.raw_typicality(pairs, weights),
            "adherence": metrics.raw_adherence(pairs, weights),
            "drift": metrics.raw_drift(self.seen.drift, others),
        }

    @cached_property
    def blind(self) -> bool:
        return abstains(self.seen.pairs, self.seen.sight)

    @cached_property
    def own(self) -> metrics.Matches:
        return metrics.own_matches(self.seen.pairs, np.random.default_rng(SPEC.seed))

    def closed(self, constants: Constants) -> list[str]:
        """Closed gates, as the evaluator has them."""
        ratio, sight = float(self.raw["alignment"][0]), self.seen.sight
        low = interval(self.raw["adherence"][1:])[0]
        found = (
            gates.shows_subjects(ratio, sight, constants.least_alignment, self.own, low),
            gates.style_measurable(self.seen.pairs),
        )
        return [*self.seen.closed, *(gate.name for gate in found if not gate.passed)]

    def low(self, constants: Constants) -> float:
        """``overall_low``."""
        names = [n for n in constants.counted if not (n == "alignment" and self.blind)]
        scores = [metrics.scaled(self.raw[name], getattr(constants, name)) for name in names]
        overall = geometric_means(np.column_stack(scores))
        return float(min(interval(overall[1:])[0], overall[0]))

    def score(self, constants: Constants) -> float:
        """What ranks cases: ``overall_low``, 0 with a gate closed."""
        return 0.0 if self.closed(constants) else self.low(constants)


def fit(judged: Sequence[Judged]) -> Constants:
    """Constants from the fitted styles, by the rules above."""
    choices = [(*ALWAYS, *some) for k in range(len(CHOSEN) + 1) for some in combinations(CHOSEN, k)]
    counted = max(choices, key=lambda names: auc_of(judged, crossed(judged, names)))
    constants = scales(judged, counted)
    # A scale that no score is judged by stays the anchors': stretched, it would always say 1.
    plain = {name: Scale() for name in CHOSEN if name not in counted}
    return constants.model_copy(update=plain)


def crossed(judged: Sequence[Judged], counted: Sequence[MetricName]) -> dict[str, Constants]:
    """Style → constants fitted on the other styles."""
    styles = {one.case.style.name for one in judged}
    return {
        style: scales([one for one in judged if one.case.style.name != style], counted)
        for style in styles
    }


def scales(judged: Sequence[Judged], counted: Sequence[MetricName]) -> Constants:
    """Every scale by its rule."""
    sound = [one for one in judged if one.case.good]
    shuffled = [one for one in judged if one.case.kind == "shuffled"]
    middle = {
        name: min(float(np.median([one.raw[name][0] for one in sound])), 1.0) for name in SCALED
    }
    lost = float(np.mean([one.raw["alignment"][0] for one in shuffled]))
    ends = [interval(one.raw["typicality"][1:])[0] for one in sound]
    reached = float(np.percentile(ends, 100 * (1 - REACHED)))
    upper = [
        one.raw["alignment"][0] + gates.ONE_SIDED * one.seen.sight.error
        for one in sound
        if one.seen.sight.p_value <= gates.READABLE
    ]
    return Constants(
        fidelity=Scale(zero=0.0, one=round(middle["fidelity"], 3)),
        diversity=Scale(zero=0.0, one=round(middle["diversity"], 3)),
        alignment=Scale(zero=round(max(lost, 0.0), 3), one=round(middle["alignment"], 3)),
        typicality=Scale(zero=0.0, one=round(max(reached, 0.05), 3)),
        adherence=Scale(zero=0.0, one=round(max(middle["adherence"], 0.05), 3)),
        drift=Scale(zero=0.0, one=round(max(middle["drift"], 0.05), 3)),
        least_alignment=round(min([Constants().least_alignment, *upper]), 3),
        counted=tuple(counted),
    )


def auc(good: Iterable[float], bad: Iterable[float]) -> float:
    """Probability that a sound adapter scores above a sabotaged one; ties count half."""
    a, b = np.array(list(good))[:, None], np.array(list(bad))[None, :]
    return float((a > b).mean() + 0.5 * (a == b).mean())


Fitted = Constants | Mapping[str, Constants]
"""Constants, or those of each style."""


def auc_of(judged: Sequence[Judged], constants: Fitted) -> float:
    scores = [(one.case.good, one.score(_for(one, constants))) for one in judged]
    return auc((s for good, s in scores if good), (s for good, s in scores if not good))


def _for(one: Judged, constants: Fitted) -> Constants:
    return constants if isinstance(constants, Constants) else constants[one.case.style.name]


def auc_interval(judged: Sequence[Judged], constants: Fitted) -> tuple[float, float]:
    """95% bootstrap over adapters, within sound and sabotaged ones."""
    good = np.array([one.score(_for(one, constants)) for one in judged if one.case.good])
    bad = np.array([one.score(_for(one, constants)) for one in judged if not one.case.good])
    rng = np.random.default_rng(0)
    return interval(
        np.array([auc(rng.choice(good, len(good)), rng.choice(bad, len(bad))) for _ in range(2000)])
    )


def table(judged: Sequence[Judged], fitted: Fitted) -> str:
    """Pass and fail rates by kind, AUC, and what alignment can detect."""
    lines = [f"{'case':<52} low   fid   ali   div   typ   adh   drift  closed"]
    for one in judged:
        constants = _for(one, fitted)
        raw = [f"{one.raw[name][0]:5.2f}" for name in SCALED]
        raw[1] = f"({raw[1].strip()})" if one.blind else raw[1]
        closed = ", ".join(one.closed(constants))
        lines.append(f"{one.case.name:<52} {one.low(constants):.2f}  {' '.join(raw)}  {closed}")
    lines.append("")
    scores = {one: one.score(_for(one, fitted)) for one in judged}
    good = [score for one, score in scores.items() if one.case.good]
    passed = sum(score >= SPEC.threshold for score in good)
    lines.append(f"{'sound adapters that pass':<36} {passed} of {len(good)}")
    for kind in SABOTAGES:
        some = [score for one, score in scores.items() if one.case.kind == kind]
        if not some:
            lines.append(f"{kind + ' that fail':<36} none made")
            continue
        failed = sum(score < SPEC.threshold for score in some)
        alone = auc(good, some)
        lines.append(f"{kind + ' that fail':<36} {failed} of {len(some)}   AUC {alone:.3f}")
    low, high = auc_interval(judged, fitted)
    lines.append(f"AUC {auc_of(judged, fitted):.3f} [{low:.3f}, {high:.3f}] (goal ≥ {GOAL})")
    lines.append(detectable(judged))
    return "\n".join(lines)


def detectable(judged: Sequence[Judged]) -> str:
    """How much of a sound adapter's match with its words must be lost to be seen.

    The test's cut lies 0.84 standard errors above chance (p = ``UNMATCHED``): an adapter left
    with just that is seen every second time, one with nothing left four times in five.
    """
    parts = []
    for one in judged:
        if not (one.case.good and one.case.file.stem == "good-0"):
            continue
        margins = one.seen.pairs.margins[0]
        errors = float(margins.mean() / (margins.std(ddof=1) / np.sqrt(len(margins))))
        style = one.case.style.name
        if one.seen.sight.p_value > gates.READABLE or errors <= CUT:
            parts.append(f"{style} none (not readable)")
        else:
            parts.append(f"{style} {1 - CUT / errors:.0%}")
    return f"loss of alignment seen every second time: {', '.join(parts)}"


def judge(rig: Rig | None, use: Use, *, kept: Path) -> list[Judged]:
    """Look at all cases; ``rig`` None: only what was looked at before."""
    found = []
    for case in cases(use):
        file = kept / case.style.name / f"{case.kind}-{case.file.parent.name}-{case.file.stem}.npz"
        if rig is not None:
            seen = rig.look(case)
            seen.save(file)
            sys.stderr.write(f"{case.name}\n")
        found.append(Judged(case, Seen.load(file)))
    return found


def first_look(witnesses: Sequence[Judged], constants: Constants) -> FirstLook:
    """What the witnesses say of constants that were fixed before they were drawn."""
    low, high = auc_interval(witnesses, constants)
    passed = [one.case.good for one in witnesses if one.score(constants) >= SPEC.threshold]
    good = sum(one.case.good for one in witnesses)
    return FirstLook(
        styles=tuple(sorted({one.case.style.name for one in witnesses})),
        good=good,
        passed=sum(passed),
        sabotaged=len(witnesses) - good,
        let_through=len(passed) - sum(passed),
        auc=round(auc_of(witnesses, constants), 4),
        auc_low=round(low, 4),
        auc_high=round(high, 4),
    )


def look_once(rig: Rig | None) -> int:
    """``--witness``: constants stay as they are; the file gains what the witnesses say of them."""
    calibration = Calibration.model_validate_json(TARGET.read_bytes())
    witnesses = judge(rig, "witness", kept=KEPT)
    say(f"witnesses:\n{table(witnesses, calibration.constants)}")
    seen = {"first_look": first_look(witnesses, calibration.constants)}
    told = calibration.model_copy(update=seen).model_dump_json(indent=1)
    TARGET.write_text(told + "\n", encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawn", action="store_true", help="draw nothing, use what was seen")
    parser.add_argument("--witness", action="store_true", help="fit nothing, ask the witnesses")
    args = parser.parse_args()
    rig = None if args.drawn else Rig()
    if args.witness:
        return look_once(rig)
    fitted = judge(rig, "fit", kept=KEPT)
    constants = fit(fitted)
    others = crossed(fitted, constants.counted)
    say(f"fitted on:\n{table(fitted, constants)}\n")
    say(f"each by constants of the other styles:\n{table(fitted, others)}\n")
    say(f"constants: {constants.model_dump_json()}\n")
    reported = judge(rig, "report", kept=KEPT)
    say(f"reported on:\n{table(reported, constants)}")
    low, high = auc_interval(reported, constants)
    calibration = Calibration(
        scorer=revisions()[0],
        bases=(revisions()[1],),
        fitted_on=tuple(sorted({one.case.style.name for one in fitted})),
        reported_on=tuple(sorted({one.case.style.name for one in reported})),
        good=sum(one.case.good for one in reported),
        sabotaged=sum(not one.case.good for one in reported),
        auc=round(auc_of(reported, constants), 4),
        auc_low=round(low, 4),
        auc_high=round(high, 4),
        constants=constants,
        note=f"64 px icons, {SPEC.prompts} pictures a LoRA; {detectable(reported)}",
        command="python tests/calibration/fit.py",
    )
    TARGET.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def revisions() -> tuple[str, str]:
    """Of the scorer and the base."""
    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import load_profile

    profile = load_profile(SPEC.profile, Settings())
    scorer = profile.role("image_text_scorer").resolve_revision()
    return scorer, profile.base(None, "art").resolve_revision()


if __name__ == "__main__":
    sys.exit(main())
