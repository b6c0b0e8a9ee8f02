"""The same promises on an S3 server, over HTTP, with credentials from boto3's chain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lora_factory.errors import (
    ArtifactError,
    ConfigurationError,
    FactoryError,
    ServiceUnavailable,
)
from lora_factory.store.artifacts import ArtifactStore
from lora_factory.store.workarea import WorkArea
from relay import Relay
from s3_server import S3Server
from unit.store.test_artifacts import draft

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    running = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with boto3's environment set to it."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.bin").write_bytes(bytes(range(256)) * 20_000)
    return folder


def names(prefix: str) -> list[str]:
    pages = boto3.Session().client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket="factory", Prefix=prefix)
    return [entry["Key"] for page in found for entry in page.get("Contents", ())]


@pytest.mark.usefixtures("s3")
def test_contract_on_s3(folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore("s3://factory/some/prefix", tmp_path / "cache")
    store.check_writable()
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
    assert not [name for name in names("some/prefix") if "/a2/" in name]

    boto3.Session().client("s3").put_object(
        Bucket="factory", Key="some/prefix/raw/k1/a1/images/a.bin", Body=b"damaged"
    )
    fresh = ArtifactStore("s3://factory/some/prefix", tmp_path / "cache2")
    with pytest.raises(ArtifactError, match=r"a\.bin is missing or damaged"):
        fresh.fetch(reference)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_a_factory_error(tmp_path: Path) -> None:
    with pytest.raises(FactoryError) as caught:
        ArtifactStore("s3://nowhere/x", tmp_path / "cache").check_writable()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("s3")
def test_a_wrong_key_is_the_operators_to_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ConfigurationError, match="refused access"):
        ArtifactStore("s3://factory/x", tmp_path / "cache").find("raw", "k")


def test_a_commit_whose_answer_is_lost_keeps_its_files(
    s3: S3Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(request: bytes) -> bool:
        return request.startswith(b"PUT") and b"manifest.json" in request.split(b"\r\n")[0]

    with Relay(s3.url, drop_answer=drop, times=1) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
        store = ArtifactStore("s3://factory/lost", tmp_path / "cache")
        reference = store.commit(folder, draft())
        assert relay.dropped == 1
        assert (store.fetch(reference).path / "images" / "a.bin").stat().st_size == 256 * 20_000


@pytest.mark.slow
def test_a_server_that_is_gone_is_transient(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match="try again"):
        ArtifactStore("s3://factory/x", tmp_path / "cache").find("raw", "k")


@pytest.mark.slow
def test_a_server_that_is_gone_for_30_seconds_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    """Killed in the middle of a commit, and of a fetch, and started again on its data."""
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03d}.bin").write_bytes(number.to_bytes(2, "big") * 50_000)
    store = ArtifactStore("s3://factory/away", tmp_path / "cache")

    def away() -> None:
        s3.kill()
        time.sleep(30)
        s3.start()

    def meanwhile(done: int) -> threading.Thread:
        """Goes away once ``done`` of the objects were written or fetched."""

        def watch() -> None:
            while len(names("away/raw")) < done:
                time.sleep(0.01)
            away()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    thread = meanwhile(20)
    began = time.monotonic()
    reference = store.commit(folder, draft())
    thread.join()
    assert time.monotonic() - began > 30, "the server went away too late to matter"
    assert len(names("away/raw")) == 301

    thread = threading.Thread(target=away)
    thread.start()
    began = time.monotonic()
    found = store.fetch(reference)
    thread.join()
    assert time.monotonic() - began > 30
    for number in range(300):
        assert (found.path / f"{number:03d}.bin").read_bytes() == number.to_bytes(2, "big") * 50_000


@pytest.mark.usefixtures("s3")
def test_work_area_on_s3(tmp_path: Path) -> None:
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
