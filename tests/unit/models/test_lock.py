"""Lock files: what is written is read again, whatever a hub says; what can't be read is named."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.hub import HubFile, Listing, _plain, choose
from lora_factory.models.lock import Lock, LockedFile, LockedModel, read_lock, write_lock
from lora_factory.models.profiles import ModelRef

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def locked(name: str = "a/b", path: str = "model.safetensors", licence: str = "mit") -> LockedModel:
    file = LockedFile(size=3, sha256="a" * 64)
    return LockedModel(
        model=name, revision="main", commit="b" * 40, licence=licence, files={path: file}
    )


@given(words, words, words, words)
def test_any_words_come_back(key: str, name: str, path: str, licence: str) -> None:
    lock = Lock(roles={key: locked(name, path, licence)}, bases={key: locked()})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.lock.toml"
        write_lock(file, lock)
        assert read_lock(file) == lock
        assert [each.name for each in Path(folder).iterdir()] == [file.name]


def test_equal_locks_give_equal_bytes(tmp_path: Path) -> None:
    one, two = ({k: locked(k) for k in keys} for keys in ("ab", "ba"))
    for name, roles in (("one", one), ("two", two)):
        write_lock(tmp_path / name, Lock(roles=roles))
    texts = [(tmp_path / name).read_text().splitlines()[1:] for name in ("one", "two")]
    assert texts[0] == texts[1]
    assert tomllib.loads((tmp_path / "one").read_text())["version"] == 1


def test_no_lock_is_an_empty_one(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "none.lock.toml") == Lock()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version = 2", "Input should be 1"),
        (b"roles = 3", "valid dictionary"),
        (b"version = [", "Invalid value"),
        (b"\xff", "can't decode"),
        (b'[roles.x]\nmodel = "a/b"\nrevision = "main"\ncommit = "short"', "match pattern"),
    ],
)
def test_a_lock_that_cant_be_read_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.lock.toml").write_bytes(data)
    with pytest.raises(ConfigurationError, match=f"x.lock.toml can't be read .*{words}") as caught:
        read_lock(tmp_path / "x.lock.toml")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="set LORA_FACTORY_PROFILES to a folder that can"):
        write_lock(tmp_path / "file" / "x.lock.toml", Lock())


def test_hostile_words_of_a_card() -> None:
    assert _plain("mit\x00\n\ud800" + "x" * 200) == "mit" + "x" * 97
    assert _plain(None) == ""


WEIGHTS = HubFile(path="model.safetensors", size=1, sha256="a" * 64)


def choice(path: str) -> list[str]:
    odd = HubFile(path=path, size=1, git_sha1="d" * 40)
    listing = Listing(model="a/b", commit="c" * 40, files=(WEIGHTS, odd))
    return [file.path for file in choose(listing, ModelRef(model="a/b"))]


@pytest.mark.parametrize("path", ["a\x00b.json", "\ud800.json", "a\\b.json"])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ModelError, match="leads elsewhere; refused"):
        choice(path)


@pytest.mark.parametrize("path", ["1_A/../config.json", "../config.json", "/etc/x.json", "x.py"])
def test_what_no_loader_reads_is_not_chosen(path: str) -> None:
    assert choice(path) == ["model.safetensors"]


def test_a_file_without_a_hash_is_refused() -> None:
    listing = Listing(
        model="a/b", commit="c" * 40, files=(HubFile(path="model.safetensors", size=1),)
    )
    with pytest.raises(ModelError, match=r"tells no hash of model\.safetensors"):
        choose(listing, ModelRef(model="a/b"))
