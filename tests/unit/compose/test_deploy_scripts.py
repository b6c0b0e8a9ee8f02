"""The small scripts that a deployment runs before and beside the factory."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "include/deploy"


def make_env(env: Path, example: Path = ROOT / ".env.example") -> str:
    command = [sys.executable, DEPLOY / "make_env.py", "--env", env, "--example", example]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read(env: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in env.read_text().splitlines())


def test_secrets_are_fresh_private_and_kept(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    make_env(one)
    make_env(two)
    assert one.stat().st_mode & 0o777 == 0o600
    secrets = {k: v for k, v in read(one).items() if v != read(two)[k]}
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "AIRFLOW_FERNET_KEY"} <= set(secrets)
    assert len(set(secrets.values())) == len(secrets)
    assert all(len(value) >= 43 for value in secrets.values())
    assert not any("generate:" in value for value in read(one).values())
    before = one.read_text()
    assert "nothing to add" in make_env(one)
    assert one.read_text() == before


def test_the_fernet_key_is_one(tmp_path):
    from cryptography.fernet import Fernet

    make_env(tmp_path / "env")
    Fernet(read(tmp_path / "env")["AIRFLOW_FERNET_KEY"])


def test_an_upgrade_adds_and_changes_nothing(tmp_path):
    env, example = tmp_path / "env", tmp_path / "example"
    env.write_text("A=mine\nB=")
    example.write_text("# words\nA=other\nB=x\nC=generate:token\n")
    assert "C" in make_env(env, example)
    assert read(env)["A"] == "mine"
    assert read(env)["B"] == ""
    assert len(read(env)["C"]) >= 43


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/down" else 200)
        self.end_headers()
        parts = {"triggerer": {"status": "healthy"}, "scheduler": {"status": None}}
        self.wfile.write(json.dumps(parts).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["/"], 0),
        (["/down"], 1),
        (["/", "triggerer"], 0),
        (["/", "scheduler"], 1),
        (["/", "dag_processor"], 1),
    ],
)
def test_healthy(url, arguments, status):
    command = [sys.executable, DEPLOY / "healthy.py", url + arguments[0], *arguments[1:]]
    assert subprocess.run(command, capture_output=True, check=False).returncode == status


def test_nobody_there_is_not_healthy(free_port):
    command = [sys.executable, DEPLOY / "healthy.py", f"http://127.0.0.1:{free_port}/"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
