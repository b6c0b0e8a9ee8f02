"""The store's promises: nothing half-written is read, the first commit wins, hashes hold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lora_factory.contracts.manifest import Manifest
from lora_factory.errors import ArtifactError, ConfigurationError, SpecError
from lora_factory.store.artifacts import ArtifactStore, open_store


def draft(key: str = "k1", attempt: str = "a1") -> Manifest:
    return Manifest(
        kind="raw",
        stage="crawl",
        stage_version=1,
        key=key,
        attempt=attempt,
        spec={},
        code_version="0",
        created_at=datetime.now(UTC),
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "store").as_uri(), tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(b"\x89PNG")
    (folder / "records.jsonl").write_text("{}\n")
    return folder


def test_what_is_committed_is_read_back(store: ArtifactStore, folder: Path) -> None:
    reference = store.commit(folder, draft())
    found = store.fetch(reference)
    assert (found.path / "images" / "a.png").read_bytes() == b"\x89PNG"
    assert [entry.path for entry in found.manifest.files] == ["images/a.png", "records.jsonl"]
    assert reference == f"{found.uri}#sha256={found.sha256}"
    assert store.find("raw", "k1") == reference


def test_without_manifest_there_is_no_artifact(store: ArtifactStore, folder: Path) -> None:
    reference = store.commit(folder, draft())
    (Path(store.url.removeprefix("file://")) / "raw" / "k1" / "manifest.json").unlink()
    assert store.find("raw", "k1") is None
    with pytest.raises(ArtifactError, match="no artifact at"):
        store.fetch(reference)


def test_first_commit_wins_and_the_loser_leaves_nothing(store: ArtifactStore, folder: Path) -> None:
    first = store.commit(folder, draft(attempt="a1"))
    (folder / "records.jsonl").write_text("other\n")
    second = store.commit(folder, draft(attempt="a2"))
    assert second == first
    root = Path(store.url.removeprefix("file://")) / "raw" / "k1"
    assert not [path for path in root.glob("a2/**/*") if path.is_file()]


@pytest.mark.parametrize("damage", [b"", b"other", None])
def test_a_damaged_file_is_named(store: ArtifactStore, folder: Path, damage: bytes | None) -> None:
    found = store.fetch(store.commit(folder, draft()))
    target = found.path / "images" / "a.png"
    target.unlink() if damage is None else target.write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"images/a\.png is missing or damaged"):
        store.fetch(found.uri)


def test_a_changed_manifest_does_not_match_its_reference(
    store: ArtifactStore, folder: Path
) -> None:
    reference = store.commit(folder, draft())
    manifest = Path(store.url.removeprefix("file://")) / "raw" / "k1" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ArtifactError, match="do not use it"):
        store.read_manifest(reference)


def test_a_manifest_can_not_point_outside(store: ArtifactStore, folder: Path) -> None:
    reference = store.commit(folder, draft())
    manifest = Path(store.url.removeprefix("file://")) / "raw" / "k1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("images/a.png", "../../../x"))
    with pytest.raises(ArtifactError, match="points outside"):
        store.fetch(reference.partition("#")[0])


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "s3://other/raw/k/manifest.json",
        "",
        "manifest.json",
        "file:///etc/manifest.json",
    ],
)
def test_only_this_deployments_store_is_read(store: ArtifactStore, uri: str) -> None:
    with pytest.raises(SpecError, match="no manifest"):
        store.read_manifest(uri)


def test_traversal_out_of_the_store_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises((ArtifactError, SpecError)):
        store.read_manifest(f"{store.url}/../manifest.json")


def test_an_unset_store_says_what_to_set(settings: object) -> None:
    from lora_factory.contracts.settings import Settings

    with pytest.raises(ConfigurationError, match="LORA_FACTORY_STORE"):
        open_store(Settings())


def test_an_unwritable_store_is_a_configuration_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(ConfigurationError):
        ArtifactStore((blocker / "store").as_uri(), tmp_path / "cache").check_writable()


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=2000), name=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
)
def test_any_bytes_survive(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    base = tmp_path_factory.mktemp("any")
    store = ArtifactStore((base / "store").as_uri(), base / "cache")
    (base / "out").mkdir()
    (base / "out" / name).write_bytes(data)
    found = store.fetch(store.commit(base / "out", draft()))
    assert (found.path / name).read_bytes() == data
