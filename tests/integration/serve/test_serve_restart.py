"""A job that was waiting when the service was killed is drawn after its next start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest
from test_serve_process import start, wait_until, wait_until_ready

from lora_factory.contracts.serving import Job
from lora_factory.store.catalog import Catalog

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_jobs_outlive_a_kill(catalog_dsn: str, free_port: int, tmp_path: Path) -> None:
    key, _ = Catalog(catalog_dsn).add_api_key("tests", ["generate"], 6000)
    environ = {"LORA_FACTORY_CATALOG": catalog_dsn, "LORA_FACTORY_THREADS": "1"}
    url, headers = f"http://127.0.0.1:{free_port}", {"authorization": f"Bearer {key}"}
    body = {"prompt": "a red apple", "steps": 100}

    def job(identity: str) -> Job:
        found = httpx.get(f"{url}/v1/jobs/{identity}", headers=headers).raise_for_status()
        return Job.model_validate_json(found.content)

    process = start(free_port, tmp_path / "data", **environ)
    try:
        wait_until_ready(url)
        jobs = [
            httpx.post(f"{url}/v1/jobs", json=body | {"seed": seed}, headers=headers).json()["id"]
            for seed in range(12)
        ]
        os.kill(process.pid, 9)
        process.wait()
        process = start(free_port, tmp_path / "data", **environ)
        wait_until_ready(url)
        deadline = time.monotonic() + 120
        wait_until(lambda: all(job(one).state == "done" for one in jobs))
        assert time.monotonic() < deadline
        seeds = [found.result.seed for found in map(job, jobs) if found.result]
        assert seeds == list(range(12))
    finally:
        process.kill()
        process.wait()
