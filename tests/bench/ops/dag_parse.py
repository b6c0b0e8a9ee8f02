"""Seconds that parsing a DAG file takes beside importing Airflow itself.

Each try is a process of its own that has imported all of Airflow that a parse needs (the
DagBag, the providers' operators in use) before the clock starts. The smallest of some tries
counts: the rest is other work on the machine. Against: importing Airflow in the same process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TRIES = 5
CODE = """
import json, sys, time
start = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators import hitl, trigger_dagrun
from airflow import plugins_manager
DagBag(dag_folder="/dev/null", collect_dags=False)
imported = time.perf_counter()
bag = DagBag(dag_folder=sys.argv[1])
done = time.perf_counter()
assert bag.dags and not bag.import_errors, bag.import_errors
print(json.dumps([done - imported, imported - start]))
"""


def measure(file: Path, home: str) -> tuple[float, float]:
    """Smallest parse time and smallest import time, seconds."""
    environment = os.environ | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")]),
    }
    tries = []
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(file)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        tries.append(json.loads(done.stdout.splitlines()[-1]))
    return min(t[0] for t in tries), min(t[1] for t in tries)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        files = sorted((ROOT / "dags").glob("*.py"))
        figures = {file.name: measure(file, home) for file in files}
    worst = max(figures, key=lambda name: figures[name][0])
    figure = {
        "value": round(figures[worst][0], 3),
        "unit": "s",
        "goal": 0.3,
        "better": "lower",
        "against": f"importing Airflow: {figures[worst][1]:.2f} s ({worst}, best of {TRIES})",
        "command": "make bench ONLY=ops",
    }
    sys.stdout.write(json.dumps({"ops.dag_parse_seconds": figure}) + "\n")


if __name__ == "__main__":
    main()
