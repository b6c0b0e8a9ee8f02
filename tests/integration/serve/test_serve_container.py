"""The app that Cloud Run, Azure ML and SageMaker run: a release of the embedded base over HTTP."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import cloud_container
from lora_factory.contracts.cloud import DIGEST, NOTE, URI
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.releases import Releases
from lora_factory.errors import ArtifactError, ConfigurationError, SpecError
from lora_factory.serve.container import create_app
from lora_factory.serve.release import open_release

pytestmark = pytest.mark.integration
WISH = {"prompt": "icnx, a red apple", "seed": 7, "steps": 2}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("released")
    release = cloud_container.release(folder, "icons", 1, cloud_container.TRAINED)
    return Releases((folder / "bucket").as_uri()).upload(release).environment()


@pytest.fixture(scope="module")
def client(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    settings = Settings(scratch=tmp_path_factory.mktemp("scratch"), threads=1)
    server = open_release(settings, environment)
    with TestClient(create_app(server, seconds=60)) as running:
        assert running.get("/healthz").status_code == 200
        deadline = time.monotonic() + 120
        while running.get("/ping").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield running
    server.engine.stop()
    assert running.get("/readyz").status_code == 503


@pytest.mark.slow
def test_a_picture_by_any_of_the_services_paths(client: TestClient) -> None:
    base = client.post("/v1/generate", json=WISH).json()
    drawn = client.post("/invocations", json=WISH | {"adapter": "icons"}).json()
    assert (base["adapter"], drawn["adapter"]) == (None, "icons")
    assert base["image"] != drawn["image"]
    assert drawn["marks"] == ["c2pa"]


@pytest.mark.slow
def test_bad_bodies(client: TestClient) -> None:
    for body, status in (
        (b"{", 422),
        (b"x" * 100_000, 413),
        (b'{"prompt": "x", "adapter": "y"}', 404),
    ):
        answer = client.post("/v1/generate", content=body)
        assert answer.status_code == status
        assert "\n" not in answer.json()["error"]
    assert client.get("/docs").status_code == 404


def test_a_damaged_release_is_not_served(environment: dict[str, str], tmp_path: Path) -> None:
    settings = Settings(scratch=tmp_path / "scratch")
    folder = Path(environment[URI].removeprefix("file://"))
    with pytest.raises(ConfigurationError, match="must name the release to serve"):
        open_release(settings, {})
    with pytest.raises(ArtifactError, match=f"has no {NOTE}"):
        open_release(settings, environment | {URI: tmp_path.as_uri()})
    with pytest.raises(ArtifactError, match="is not the one that was deployed"):
        open_release(settings, environment | {DIGEST: "0" * 64})
    other = tmp_path / "copy"
    other.mkdir()
    (other / NOTE).write_bytes((folder / NOTE).read_bytes())
    (other / "lora.safetensors").write_bytes(b"others")
    with pytest.raises(ArtifactError, match="is damaged; deploy it again"):
        open_release(settings, environment | {URI: other.as_uri()})
    text = (folder / NOTE).read_text().replace('"emoji"', '"sdxl"')
    (other / NOTE).write_text(text)
    (other / "lora.safetensors").write_bytes((folder / "lora.safetensors").read_bytes())
    digest = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(SpecError, match="sdxl"):
        open_release(settings, {URI: other.as_uri(), DIGEST: digest})


def test_a_container_without_a_release_ends_in_one_line() -> None:
    environ = {k: v for k, v in os.environ.items() if k not in {URI, DIGEST}}
    ended = subprocess.run(
        [sys.executable, "-m", "lora_factory.serve.container", "serve", "--port", "0"],
        env=environ | {"PYTHONPATH": "include"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "ConfigurationError: LORA_FACTORY_RELEASE and" in ended.stderr
    assert "Traceback" not in ended.stderr
