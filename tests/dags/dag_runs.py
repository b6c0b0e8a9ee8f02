"""Runs of a DAG by ``dag.test``, and what they did."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lora_factory.store.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")])}


def load_dag(dag_id: str) -> Any:
    """A DAG, anew for each run, as Airflow does: Params keep the last run's values."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(str(ROOT / "dags")).dags[dag_id]
    for task in dag.tasks:
        task.retry_delay *= 0
    return dag


@dataclass
class Factory:
    """A deployment with a fake child, and what its runs did."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.environment["LORA_FACTORY_STORE"], self.folder)

    def run(
        self,
        monkeypatch: pytest.MonkeyPatch,
        conf: dict[str, Any],
        answer: str | None = None,
        **env: str,
    ) -> Run:
        """``answer``: what a person says when asked."""
        for name, value in {**self.environment, **env}.items():
            monkeypatch.setenv(name, value)
        conf = {"topics": ["blue cats"], "source": "folder", **conf}
        with answering(answer):
            return Run(load_dag("lora_factory").test(run_conf=conf))


@contextmanager
def answering(option: str | None) -> Iterator[None]:
    """A person at the other end: answers the first question asked, as Airflow's API does."""
    if option is None:
        yield
        return
    done = threading.Event()
    person = threading.Thread(target=answer_first, args=(option, done))
    person.start()
    try:
        yield
    finally:
        done.set()
        person.join()


def answer_first(option: str, done: threading.Event) -> None:
    """Wait for a task that waits for input, and send ``option`` through the API's route."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    while not done.wait(0.3):
        with create_session() as session:
            asking = session.query(TaskInstance).filter_by(state="awaiting_input").first()
            if asking is None:
                continue
            update_hitl_detail(
                asking.dag_id,
                asking.run_id,
                asking.task_id,
                UpdateHITLDetailPayload(chosen_options=[option]),
                SimpleAuthManagerUser(username="rita", role="admin"),
                session,
            )
            return


class Run:
    """A finished DAG run."""

    def __init__(self, run: Any) -> None:
        self.state = str(run.state)
        found = sorted(run.get_task_instances(), key=lambda ti: ti.map_index)
        self.instances = {ti.task_id: ti for ti in found}
        self.mapped = Counter(ti.task_id for ti in found if ti.map_index >= 0)
        self._run = run

    def states(self, state: str) -> set[str]:
        return {id_ for id_, ti in self.instances.items() if str(ti.state) == state}

    def tries(self, task_id: str) -> int:
        return self.instances[task_id].try_number

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                key=key,
                task_ids=task_id,
                dag_ids=self._run.dag_id,
                run_id=self._run.run_id,
                map_indexes=map_index,
            )
            row = session.scalars(query).first()
            value = None if row is None else row.value
            return json.loads(value) if isinstance(value, str) else value
