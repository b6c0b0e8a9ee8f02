"""An Airflow home with a migrated SQLite database, and runs of the DAG by ``dag.test``.

Airflow reads its configuration when it is first imported, so the environment is set here,
at import, before any test module is collected.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from dag_runs import PATHS, ROOT, Factory

HOME = Path(tempfile.mkdtemp(prefix="lora-factory-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
}


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Migrate the metadata database (15 s, once)."""
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | PATHS)


@pytest.fixture
def factory(tmp_path: Path, airflow_db: None) -> Factory:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/dags/fake_stage.py "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "pictures").mkdir()
    environment = PATHS | {
        "LORA_FACTORY_PYTHON": str(python),
        "LORA_FACTORY_STORE": f"file://{tmp_path}/store",
        "LORA_FACTORY_SCRATCH": str(tmp_path / "scratch"),
        "LORA_FACTORY_FOLDERS": f"pictures={tmp_path}/pictures",
        "LORA_FACTORY_CRAWL_HOSTS": "127.0.0.1:8001",
        "LORA_FACTORY_CRAWL_PUBLIC": "false",
        "LORA_FACTORY_FAKE_PASS_EPOCHS": "10",
    }
    return Factory(tmp_path, environment)
