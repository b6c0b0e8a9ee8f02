"""The few calls of Airflow's REST API v2 that the demo and the tests make, as a user would."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import httpx

from lora_factory.errors import ServiceUnavailable, SpecError

log = logging.getLogger(__name__)


class AirflowApi:
    """A logged-in client.

    Args:
        url: base URL, without ``/api/v2``.
        user: name of a user.
        password: that user's password.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, timeout=30.0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def healthy(self) -> bool:
        """Whether API server, scheduler and DAG processor all report that they are well."""
        try:
            answer = self._client.get("/api/v2/monitor/health", timeout=5.0)
            parts = answer.json()
        except (httpx.HTTPError, ValueError):
            return False
        needed = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return all((parts.get(part) or {}).get("status") == "healthy" for part in needed)

    def login(self) -> None:
        """Get a token and use it from now on."""
        answer = self._client.post("/auth/token", json=self._login)
        answer.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call under ``/api/v2``.

        Raises:
            SpecError: Airflow refused the request (4xx); carries its words.
            ServiceUnavailable: no answer, or 5xx.
        """
        try:
            answer = self._client.request(
                method, f"/api/v2{path}", json=body, headers={"Accept": "application/json"}
            )
        except httpx.HTTPError as err:
            msg = f"Airflow did not answer {method} {path}: {err}"
            raise ServiceUnavailable(msg) from err
        if answer.status_code >= 500:
            msg = f"Airflow failed on {method} {path}: HTTP {answer.status_code}"
            raise ServiceUnavailable(msg)
        if answer.status_code >= 400:
            msg = f"Airflow refused {method} {path}: HTTP {answer.status_code} {answer.text[:300]}"
            raise SpecError(msg)
        return answer.json() if answer.content else None

    def has_dag(self, dag_id: str) -> bool:
        """Whether the DAG processor has read this DAG."""
        try:
            self.call("GET", f"/dags/{dag_id}")
        except SpecError:
            return False
        return True

    def import_errors(self) -> list[str]:
        """What the DAG processor could not import."""
        found = self.call("GET", "/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in found]

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool unless it is there."""
        body = {"name": name, "slots": slots, "description": description}
        try:
            self.call("POST", "/pools", body)
        except SpecError:
            self.call("GET", f"/pools/{name}")

    def unpause(self, dag_id: str) -> None:
        """New DAGs start paused."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> None:
        """Start a run."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self.call("POST", f"/dags/{dag_id}/dagRuns", body)

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """The run: ``state``, ``start_date``, ``end_date``, …"""
        found: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The run's task instances."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000"
        found: list[dict[str, Any]] = self.call("GET", path)["task_instances"]
        return found

    def log_lines(
        self, dag_id: str, run_id: str, task_id: str, attempt: int, map_index: int = -1
    ) -> list[str]:
        """Messages of a task's log so far; empty before there is one."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        query = f"full_content=true&map_index={map_index}"
        try:
            content = self.call("GET", f"{path}?{query}").get("content", [])
        except SpecError:
            return []
        if isinstance(content, str):
            return content.splitlines()
        return [_text(line) for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A task's XCom value, or None if it pushed none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.call("GET", f"{path}?deserialize=true")["value"]
        except SpecError:
            return None


def _text(line: Any) -> str:
    """A structured log line as text, with the exceptions it carries."""
    if not isinstance(line, dict):
        return str(line)
    errors = [f"{err['exc_type']}: {err['exc_value']}" for err in line.get("error_detail") or ()]
    return " ".join([str(line["event"]), *errors])
