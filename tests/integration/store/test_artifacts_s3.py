"""The same promises on an S3 server, over HTTP, with credentials from boto3's chain."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from lora_factory.errors import ArtifactError, FactoryError, ServiceUnavailable
from lora_factory.store.artifacts import ArtifactStore
from lora_factory.store.workarea import WorkArea
from unit.store.test_artifacts import draft

pytestmark = pytest.mark.integration


@pytest.fixture
def s3(free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A moto server with one bucket; gives its URL and sets boto3's environment."""
    url = f"http://127.0.0.1:{free_port}"
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    log = (tmp_path / "moto.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(free_port)],
        stdout=log,
        stderr=log,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                boto3.client("s3").create_bucket(Bucket="factory")
                break
            except (BotoCoreError, ClientError):
                assert time.monotonic() < deadline, (tmp_path / "moto.log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_contract_on_s3(s3: str, tmp_path: Path) -> None:
    assert s3
    store = ArtifactStore("s3://factory/some/prefix", tmp_path / "cache")
    store.check_writable()
    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.bin").write_bytes(bytes(range(256)) * 20_000)
    assert store.find("raw", "k1") is None

    reference = store.commit(folder, draft())
    assert store.find("raw", "k1") == reference
    found = store.fetch(reference)
    assert (found.path / "images" / "a.bin").stat().st_size == 256 * 20_000

    assert store.addresses("raw") == [reference.partition("#")[0]]
    assert store.addresses("lora") == []
    lines = store.lines(found.manifest, "images/a.bin")
    assert sum(len(line) for line in lines) == (256 - 1) * 20_000  # without the newlines

    (folder / "images" / "a.bin").write_bytes(b"other")
    assert store.commit(folder, draft(attempt="a2")) == reference, "the first commit wins"
    listed = boto3.client("s3").list_objects_v2(Bucket="factory")["Contents"]
    assert not [entry["Key"] for entry in listed if "/a2/" in entry["Key"]]

    boto3.client("s3").put_object(
        Bucket="factory", Key="some/prefix/raw/k1/a1/images/a.bin", Body=b"damaged"
    )
    fresh = ArtifactStore("s3://factory/some/prefix", tmp_path / "cache2")
    with pytest.raises(ArtifactError, match=r"a\.bin is missing or damaged"):
        fresh.fetch(reference)


def test_a_missing_bucket_is_a_factory_error(s3: str, tmp_path: Path) -> None:
    assert s3
    with pytest.raises(FactoryError) as caught:
        ArtifactStore("s3://nowhere/x", tmp_path / "cache").check_writable()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_is_gone_is_transient(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match="try again"):
        ArtifactStore("s3://factory/x", tmp_path / "cache").find("raw", "k")


def test_work_area_on_s3(s3: str, tmp_path: Path) -> None:
    assert s3
    area = WorkArea("s3://factory/some/work")
    assert area.put_once("images/a.png", b"first")
    assert not area.put_once("images/a.png", b"second")
    area.put("chunks/1.jsonl", b"x")
    assert sorted(area.names("images")) == ["images/a.png"]
    area.bring("images/a.png", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"first"
    with pytest.raises(ArtifactError, match="is gone"):
        area.read("images/b.png")
    area.clear()
    assert list(area.names("images")) + list(area.names("chunks")) == []
