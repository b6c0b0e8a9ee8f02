"""Follows a run through the REST API and tells what it does: stage, counts, rates, time left."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from lora_factory.demo.airflow_api import AirflowApi

# What contracts.progress writes: "label done/total unit, rate/s, N s left".
PROGRESS = re.compile(r"\S.* \d+/\d+ .*s left.*")
FINAL = ("success", "failed")
QUIET = ("skipped", "removed", "upstream_failed", None)


def say(text: str = "") -> None:
    """A line for the person who watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Watcher:
    """Prints what changed in a run since the last look."""

    api: AirflowApi
    dag_id: str
    run_id: str
    started: float = field(default_factory=time.monotonic)
    _states: dict[str, str] = field(default_factory=dict)
    _lines: dict[str, str] = field(default_factory=dict)

    def follow(self, seconds: float = 3600.0) -> dict[str, Any]:
        """Look every two seconds until the run ends; returns the run.

        Where nobody sits at the terminal, also when it waits for a person's answer.
        """
        while True:
            run = self.api.run(self.dag_id, self.run_id)
            tasks = self.api.tasks(self.dag_id, self.run_id)
            for task in tasks:
                self._look(task)
            asking = [task for task in tasks if task["state"] == "awaiting_input"]
            if asking and not sys.stdin.isatty():
                return run
            if run["state"] in FINAL or time.monotonic() - self.started > seconds:
                return run
            time.sleep(2.0)

    def _look(self, task: dict[str, Any]) -> None:
        name, state = task["task_id"], task["state"]
        if task["map_index"] >= 0:
            name = f"{name} {task['map_index'] + 1}"
        if state == "running":
            self._progress(name, task)
        if state in QUIET or self._states.get(name) == state:
            return
        self._states[name] = state
        if state in ("running", "success", "failed", "up_for_retry", "awaiting_input"):
            took = f" {task['duration']:.1f} s" if state == "success" and task["duration"] else ""
            self._print(name, f"{state}{took}")
        if state == "awaiting_input":
            path = f"/dags/{self.dag_id}/runs/{self.run_id}/tasks/{task['task_id']}"
            self._print(name, f"a person is asked: {self.api.url}{path}/required_actions")
        if state in ("failed", "up_for_retry"):
            for line in self._log(task)[-12:]:
                self._print(name, line)

    def _progress(self, name: str, task: dict[str, Any]) -> None:
        for line in reversed(self._log(task)):
            found = PROGRESS.search(line)
            if found:
                if self._lines.get(name) != found.group():
                    self._lines[name] = found.group()
                    self._print(name, found.group())
                return

    def _log(self, task: dict[str, Any]) -> list[str]:
        names = (self.dag_id, self.run_id, task["task_id"], task["try_number"], task["map_index"])
        return self.api.log_lines(*names)

    def _print(self, name: str, text: str) -> None:
        say(f"[{time.monotonic() - self.started:5.0f} s] {name:<20} {text}")
