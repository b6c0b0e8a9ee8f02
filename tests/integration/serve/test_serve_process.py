"""``python -m lora_factory.serve`` as a process: refuses to start wrongly, ends gracefully."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.store.catalog import Catalog

pytestmark = pytest.mark.integration


def start(port: int, data: Path, *more: str, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lora_factory.serve", "--port", str(port)]
    return subprocess.Popen(
        [*command, "--data", str(data), *more],
        env={**os.environ, "PYTHONPATH": "include", **environ},
        cwd=Path(__file__).parents[3],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_refuses_to_start_with_one_line(
    postgres: EmbeddedPostgres, catalog_dsn: str, free_port: int, tmp_path: Path
) -> None:
    empty = postgres.dsn("serve_empty")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    wrong: list[tuple[list[str], dict[str, str], str]] = [
        ([], {}, "LORA_FACTORY_CATALOG"),
        ([], {"LORA_FACTORY_CATALOG": empty}, "catalog migrate"),
        (["--profile", "nope"], {"LORA_FACTORY_CATALOG": catalog_dsn}, "unknown profile"),
        (["--base", "nope"], {"LORA_FACTORY_CATALOG": catalog_dsn}, "no base 'nope'"),
        (["--data", str(blocked)], {"LORA_FACTORY_CATALOG": catalog_dsn}, "can't be written"),
    ]
    for more, environ, words in wrong:
        process = start(free_port, tmp_path / "data", *more, **environ)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1, errors
        assert words in errors
        assert "Traceback" not in errors
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{free_port}/healthz")


@pytest.mark.slow
def test_sigterm_lets_a_running_picture_finish(
    catalog_dsn: str, free_port: int, tmp_path: Path
) -> None:
    made = {"LORA_FACTORY_CATALOG": catalog_dsn, "LORA_FACTORY_THREADS": "1"}
    key, _ = Catalog(catalog_dsn).add_api_key("tests", ["generate"], 60)
    environ = made
    process = start(free_port, tmp_path / "data", **environ)
    url = f"http://127.0.0.1:{free_port}"
    try:
        wait_until_ready(url)
        publish = httpx.post(f"{url}/v1/adapters", headers={"authorization": "Bearer x"})
        assert publish.status_code == 401, "no key set: nobody is administrator"
        assert httpx.post(f"{url}/v1/generate", json={"prompt": "x"}).status_code == 401
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            body = {"prompt": "a cat", "steps": 60}
            headers = {"authorization": f"Bearer {key}"}
            drawing = pool.submit(
                httpx.post, f"{url}/v1/generate", json=body, headers=headers, timeout=30
            )
            time.sleep(0.3)  # the request is on its way and drawing takes seconds
            process.send_signal(signal.SIGTERM)
            answer = drawing.result()
        assert answer.status_code == 200, answer.text
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def wait_until_ready(url: str) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready)


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.2)
