"""The deploy child under the interpreter of this environment, as Airflow's task starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("azure.ai.ml", reason="make test-cloud runs these")

ROOT = Path(__file__).parents[2]
SPEC = {"lora": "file:///l", "evaluation": "file:///e", "name": "icons", "target": "cloud-run"}


def test_a_target_opens_there_and_its_errors_are_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC))
    environ = os.environ | {
        "PYTHONPATH": str(ROOT / "include"),
        "LORA_FACTORY_STORE": (tmp_path / "store").as_uri(),
        "LORA_FACTORY_RELEASES": "gs://releases/factory",
        "LORA_FACTORY_CLOUD_RUN": "project=factory-project,location=europe-west4,image=a/b:1",
        "GOOGLE_SERVICE_ACCOUNT_KEY": '{"type": "service_account", "private_key": "secret"}',
    }
    ended = subprocess.run(
        [sys.executable, "-m", "lora_factory", "deploy-plan", "--spec", str(spec)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith("ERROR lora_factory: ConfigurationError: Google Cloud: credentials")
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr
