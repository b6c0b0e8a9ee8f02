"""ops.airflow_share: the part of the demo's run that no stage's child process ran.

The run's wall time minus the sum of the children's, over the run's wall time, start-up
excluded. Reads build/demo.json of a run in which nothing was reused; runs the demo from
nothing where there is none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SUMMARY = ROOT / "build" / "demo.json"


def main() -> int:
    summary = json.loads(SUMMARY.read_text()) if SUMMARY.exists() else {}
    if not summary or sum(summary["seconds"]["stages"].values()) < 60:
        shutil.rmtree(ROOT / "build" / "demo", ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "lora_factory.demo"], cwd=ROOT, check=True, stdout=sys.stderr
        )
        summary = json.loads(SUMMARY.read_text())
    figure = {
        "value": summary["seconds"]["airflow_share"],
        "unit": "share",
        "goal": 0.15,
        "better": "lower",
        "against": f"a run of {summary['seconds']['run']:.0f} s",
        "command": "make bench ONLY=ops",
    }
    sys.stdout.write(json.dumps({"ops.airflow_share": figure}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
