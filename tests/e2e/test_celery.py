"""The crawl of two workers under Airflow's CeleryExecutor: real Celery workers, broker, backend."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from e2e.conftest import Runs
from lora_factory.contracts.settings import Settings
from lora_factory.demo.deployment import Deployment, postgres_folder
from lora_factory.demo.processes import free_ports
from lora_factory.demo.site import GallerySite
from lora_factory.store.artifacts import open_store
from valkey_server import ValkeyServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
CELERY = ("celery-1", "celery-2")


class CeleryDeployment(Deployment):
    """The demo's deployment, but for Celery in the place of the LocalExecutor."""

    def __init__(self, folder: Path, broker: str, hosts: str) -> None:
        super().__init__(folder)
        self.broker, self.hosts = broker, hosts
        self.env: dict[str, str] = {}

    def environment(self, metadata: str, catalog: str) -> dict[str, str]:
        celery = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CELERY__BROKER_URL": self.broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{metadata}",
            "LORA_FACTORY_CRAWL_HOSTS": self.hosts,
            "LORA_FACTORY_CRAWL_REDIS": self.broker.removesuffix("/0") + "/1",
        }
        self.env = {**super().environment(metadata, catalog), **celery}
        return self.env

    def _start_serving(self, env: Mapping[str, str]) -> None:
        """Nothing is served here; two workers of one task each take its place."""
        argv = [sys.executable, "-m", "airflow", "celery", "worker", "--queues", "default,gpu"]
        for name in CELERY:
            options = ["--concurrency", "1", "--celery-hostname", f"{name}@%h"]
            if name != CELERY[0]:
                options.append("--skip-serve-logs")  # its files are the first one's too
            self.processes.start(name, argv + options, env)

    def _serving(self) -> bool:
        return all(" ready." in self.processes.log_file(name).read_text() for name in CELERY)


class SlowGallery(GallerySite):
    """The gallery, half a second late."""

    def __init__(self) -> None:
        super().__init__()
        handler: Any = self._server.RequestHandlerClass

        class Late(handler):  # type: ignore[misc]
            def do_GET(self) -> None:  # noqa: N802 - its name in the base class
                time.sleep(0.5)
                super().do_GET()

        self._server.RequestHandlerClass = Late


@pytest.fixture(scope="module")
def galleries() -> Iterator[list[SlowGallery]]:
    """Three copies: on one host a quick worker leaves nothing to the other."""
    with ExitStack() as stack:
        yield [stack.enter_context(SlowGallery()) for _ in range(3)]


@pytest.fixture(scope="module")
def celery(
    tmp_path_factory: pytest.TempPathFactory, galleries: list[SlowGallery]
) -> Iterator[CeleryDeployment]:
    folder = tmp_path_factory.mktemp("celery")
    (port,) = free_ports(1, folder / "redis.json")
    server = ValkeyServer(folder / "redis", port).start()
    made = CeleryDeployment(folder / "d", server.url, ",".join(one.host for one in galleries))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        server.stop()
        shutil.rmtree(postgres_folder(made.folder), ignore_errors=True)


def test_two_celery_workers_crawl(celery: CeleryDeployment, galleries: list[SlowGallery]) -> None:
    runs = Runs(celery.api)
    conf = {
        "topics": ["icons of animals, food and objects", "icons of tools, vehicles and weather"],
        "seeds": [one.url for one in galleries],
        "crawl_workers": 2,
        "stop_after": "crawl",
        "as_of": "2026-11-24",
    }
    assert runs("celery", conf) == "success", runs.states("celery")
    tasks = celery.api.tasks("lora_factory", "celery")
    done = Counter(task["task_id"] for task in tasks if task["state"] == "success")
    assert done["crawl_work"] == 2
    crawl = celery.api.xcom("lora_factory", "celery", "crawl")
    store = open_store(Settings.from_environment(celery.env))
    merged = store.fetch(crawl["manifest_uri"]).manifest
    assert merged.counts.kept == 150  # of each picture's three copies one
    # Celery ran it, and each of its workers one half.
    with psycopg2.connect(celery.env["AIRFLOW__CELERY__RESULT_BACKEND"].removeprefix("db+")) as db:
        cursor = db.cursor()
        cursor.execute("SELECT status, count(*) FROM celery_taskmeta GROUP BY status")
        results = dict(cursor.fetchall())
    assert results.keys() == {"SUCCESS"}
    assert results["SUCCESS"] >= sum(done.values()) - 1
    for name in CELERY:
        assert "succeeded" in celery.processes.log_file(name).read_text()
