"""Releases on a real S3 server: uploaded once, remembered, served from there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud_container
from lora_factory.contracts.cloud import NOTE, WEIGHTS, AwsAccess
from lora_factory.deploy.releases import Promoted, Releases
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from lora_factory.serve.release import fetch
from lora_factory.store.buckets import open_bucket
from s3_server import ACCESS, SECRET, S3Server

pytestmark = pytest.mark.integration
URL = "s3://factory/releases"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix="lora_factory_s3_") as folder:
        running = S3Server(Path(folder)).start()
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def access(server: S3Server) -> AwsAccess:
    return AwsAccess(key=ACCESS, secret=SECRET, region="us-east-1", endpoint=server.url)


def test_a_release_comes_back_as_it_was(access: AwsAccess, tmp_path: Path) -> None:
    release = cloud_container.release(tmp_path, "icons", 1)
    releases = Releases(URL, access)
    revision = releases.upload(release)
    assert releases.upload(release) == revision
    store = open_bucket(revision.uri, access)
    found = {entry["path"] for batch in store.list() for entry in batch}
    assert found == {NOTE, WEIGHTS, "README.md", "samples/1.png"}
    fetched = fetch(revision.uri, revision.digest, tmp_path / "served", store)
    assert fetched.file.path.read_bytes() == release.file.read_bytes()
    assert fetched.note.trigger == "icnx"
    assert releases.promoted("icons", "azure") == Promoted()
    releases.remember("icons", "azure", Promoted(versions=(release.model.version,)))
    assert Releases(URL, access).promoted("icons", "azure").versions == (release.model.version,)
    assert releases.promoted("icons", "cloud-run") == Promoted()  # each target has its own


def test_other_bytes_than_were_evaluated_are_not_uploaded(
    access: AwsAccess, tmp_path: Path
) -> None:
    release = cloud_container.release(tmp_path, "icons", 2)
    release.file.write_bytes(b"others")
    with pytest.raises(ReleaseError, match="is not the file that was evaluated"):
        Releases(URL, access).upload(release)


def test_wrong_keys_and_no_server_are_told_apart(access: AwsAccess, tmp_path: Path) -> None:
    release = cloud_container.release(tmp_path, "icons", 3)
    wrong = access.model_copy(update={"key": "nobody"})
    with pytest.raises(ConfigurationError, match="refuses access"):
        Releases(URL, wrong).upload(release)
    gone = access.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(ServiceUnavailable, match="did not answer") as err:
        Releases(URL, gone).upload(release)
    assert "\n" not in str(err.value)
    assert SECRET not in str(err.value)
