"""How well a pass tells sound LoRAs from sabotaged ones, on styles that were not fitted on.

Draws with the adapters of ``tests/calibration`` (about 5 minutes on a core the first time; the
pictures stay in build/calibration). Against: chance, which is 0.5.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / part) for part in ("include", "tests", "tests/calibration")]

import fit  # noqa: E402
from calibration_measure import BUILD, Rig  # noqa: E402

from lora_factory.evaluate.calibration import constants_of, find_calibration  # noqa: E402


def main() -> None:
    constants = constants_of(find_calibration(*fit.revisions()))
    rig, kept = Rig(), BUILD / "bench"
    groups = {use: fit.judge(rig, use, kept=kept) for use in ("report", "witness")}
    each = {use: f"{fit.auc_of(some, constants):.3f}" for use, some in groups.items()}
    judged = [*groups["report"], *groups["witness"]]
    low, high = fit.auc_interval(judged, constants)
    good = sum(one.case.good for one in judged)
    figure = {
        "value": round(fit.auc_of(judged, constants), 3),
        "unit": "AUC",
        "goal": fit.GOAL,
        "better": "higher",
        "against": (
            f"chance: 0.5 ({good} sound, {len(judged) - good} sabotaged adapters, "
            f"95% interval {low:.3f} to {high:.3f}; reported styles {each['report']}, witnesses "
            f"{each['witness']})"
        ),
        "command": "make bench ONLY=evaluate",
    }
    sys.stdout.write(json.dumps({"evaluate.sabotage_auc": figure}) + "\n")


if __name__ == "__main__":
    main()
