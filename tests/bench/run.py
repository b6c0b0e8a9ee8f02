"""Runs the benches and merges their figures into build/bench.json.

A bench is a script ``tests/bench/<group>/<name>.py`` that prints one JSON object a line:
``{key: {"value", "unit", "goal", "better": "higher"|"lower", "against", "command"}}``.
Figures are ratios of two things measured in one run wherever that is possible.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "bench.json"
FIELDS = {"value", "unit", "goal", "better", "against", "command"}


def main() -> int:
    groups = sorted(folder.name for folder in HERE.iterdir() if list(folder.glob("*.py")))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=groups, help="one group")
    chosen = parser.parse_args().only
    figures = json.loads(OUT.read_text()) if OUT.exists() else {}
    failed = []
    for group in [chosen] if chosen else groups:
        for script in sorted((HERE / group).glob("*.py")):
            done = subprocess.run(
                [sys.executable, str(script)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                failed.append(script.name)
            for line in done.stdout.splitlines():
                if line.startswith("{"):
                    figures |= json.loads(line)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    for key, figure in sorted(figures.items()):
        assert set(figure) == FIELDS, f"{key}: has {sorted(figure)}, needs {sorted(FIELDS)}"
        sign = ">=" if figure["better"] == "higher" else "<="
        met = (figure["value"] >= figure["goal"]) == (figure["better"] == "higher")
        met = met or figure["value"] == figure["goal"]
        mark = "met" if met else "MISSED"
        value = f"{figure['value']:>10.4g} {figure['unit']:<10}"
        sys.stdout.write(f"{key:<36} {value} {sign} {figure['goal']} {mark}\n")
    if failed:
        sys.stderr.write(f"benches that failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
