"""One real deployment for all end-to-end tests: PostgreSQL, Airflow, serving app, gallery."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_factory import demo
from lora_factory.demo.airflow_api import AirflowApi
from lora_factory.demo.deployment import Deployment, postgres_folder

GALLERY = Path(demo.__file__).parent / "gallery"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``icons``: 36 captioned pictures. ``few``: three of them. ``junk``: no picture at all."""
    base = tmp_path_factory.mktemp("folders")
    icons = json.loads((GALLERY / "icons.json").read_text())["icons"]
    pairs = sorted((icon["name"], icon) for icon in icons)
    names = {"icons": 36, "few": 3}
    for folder, count in names.items():
        (base / folder).mkdir()
        for name, _ in pairs[:count]:
            shutil.copy(GALLERY / "icons" / f"{name}.png", base / folder)
            (base / folder / f"{name}.txt").write_text(name.replace("-", " "))
    (base / "junk").mkdir()
    (base / "junk" / "page.png").write_text("<html>not a picture</html>")
    return {name: base / name for name in (*names, "junk")}


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> Iterator[Deployment]:
    """A running deployment."""
    made = Deployment(tmp_path_factory.mktemp("deployment"), folders)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        data = postgres_folder(made.folder)
        if not data.is_relative_to(made.folder):
            shutil.rmtree(data, ignore_errors=True)


class Runs:
    """Triggers runs through the REST API and waits for them."""

    def __init__(self, api: AirflowApi) -> None:
        self.api = api

    def __call__(self, run_id: str, conf: dict[str, Any], dag: str = "lora_factory") -> str:
        """Trigger and wait; returns the final state."""
        self.api.trigger(dag, run_id, conf)
        return self.wait(run_id, dag)

    def wait(self, run_id: str, dag: str = "lora_factory", seconds: float = 420) -> str:
        """Wait for a run's final state."""
        deadline = time.monotonic() + seconds
        while True:
            state = str(self.api.run(dag, run_id)["state"])
            if state in ("success", "failed"):
                return state
            assert time.monotonic() < deadline, f"{run_id} is still {state}"
            time.sleep(1)

    def states(self, run_id: str, dag: str = "lora_factory") -> dict[str, str]:
        """Task id → state."""
        return {task["task_id"]: task["state"] for task in self.api.tasks(dag, run_id)}

    def log(self, run_id: str, task_id: str, dag: str = "lora_factory") -> str:
        """A task's whole log of its last try."""
        tries = {task["task_id"]: task["try_number"] for task in self.api.tasks(dag, run_id)}
        return "\n".join(self.api.log_lines(dag, run_id, task_id, tries[task_id]))

    def says(self, run_id: str, task_id: str, words: str, seconds: float = 10) -> bool:
        """Whether ``words`` stand in a task's log, which may arrive a little after its end."""
        deadline = time.monotonic() + seconds
        while words not in self.log(run_id, task_id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def tries(self, run_id: str, task_id: str, dag: str = "lora_factory") -> int:
        """How often a task was started."""
        return next(
            int(task["try_number"])
            for task in self.api.tasks(dag, run_id)
            if task["task_id"] == task_id
        )


@pytest.fixture(scope="session")
def runs(deployment: Deployment) -> Runs:
    """Runs on the deployment."""
    return Runs(deployment.api)
