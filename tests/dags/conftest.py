"""An Airflow home with a migrated SQLite database, and runs of the DAG by ``dag.test``.

Airflow reads its configuration when it is first imported, so the environment is set here,
at import, before any test module is collected.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lora_factory.store.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parents[2]
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
    "PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")]),
}


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Migrate the metadata database (15 s, once)."""
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))


@dataclass
class Factory:
    """A deployment with a fake child, and what its runs did."""

    folder: Path
    dag: Any
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.environment["LORA_FACTORY_STORE"], self.folder)

    def run(self, monkeypatch: pytest.MonkeyPatch, conf: dict[str, Any], **env: str) -> Run:
        for name, value in {**self.environment, **env}.items():
            monkeypatch.setenv(name, value)
        run = self.dag.test(run_conf={"topics": ["blue cats"], "source": "folder", **conf})
        return Run(run)


class Run:
    """A finished DAG run."""

    def __init__(self, run: Any) -> None:
        self.state = str(run.state)
        self.instances = {ti.task_id: ti for ti in run.get_task_instances()}
        self._run = run

    def states(self, state: str) -> set[str]:
        return {id_ for id_, ti in self.instances.items() if str(ti.state) == state}

    def tries(self, task_id: str) -> int:
        return self.instances[task_id].try_number

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                key=key,
                task_ids=task_id,
                dag_ids=self._run.dag_id,
                run_id=self._run.run_id,
            )
            row = session.scalars(query).first()
            value = None if row is None else row.value
            return json.loads(value) if isinstance(value, str) else value


@pytest.fixture
def factory(tmp_path: Path, airflow_db: None) -> Factory:
    from airflow.dag_processing.dagbag import DagBag

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/dags/fake_stage.py "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "pictures").mkdir()
    dag = DagBag(str(ROOT / "dags")).dags["lora_factory"]
    environment = {
        "LORA_FACTORY_PYTHON": str(python),
        "LORA_FACTORY_STORE": f"file://{tmp_path}/store",
        "LORA_FACTORY_SCRATCH": str(tmp_path / "scratch"),
        "LORA_FACTORY_FOLDERS": f"pictures={tmp_path}/pictures",
        "LORA_FACTORY_CRAWL_HOSTS": "127.0.0.1:8001",
        "LORA_FACTORY_FAKE_PASS_EPOCHS": "10",
    }
    for task in dag.tasks:
        task.retry_delay = task.retry_delay * 0
    return Factory(tmp_path, dag, environment)
