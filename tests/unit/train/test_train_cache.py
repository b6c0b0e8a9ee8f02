"""The cache of encodings: found again, whole, shared, bounded, and never a reason to fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.training import CacheUse
from lora_factory.train.cache import FOLDER, EncodingCache, open_cache

KEYS = [f"{number:064x}" for number in range(4)]
BYTES = 600
"""An entry has more than this, and less than twice as much."""


def settings(tmp_path: Path, entries: float = 1000) -> Settings:
    return Settings(scratch=tmp_path, cache_gb=entries * 2 * BYTES / 1e9)


def entry(key: str) -> dict[str, torch.Tensor]:
    return {"a": torch.full((2, 60), float(int(key, 16) % 999)), "b": torch.arange(7).half()}


def fill(cache: EncodingCache, keys: list[str] = KEYS) -> list[int]:
    """Indices that had to be encoded."""
    asked: list[int] = []

    def encode(indices: list[int]) -> list[dict[str, torch.Tensor]]:
        asked.extend(indices)
        return [entry(keys[index]) for index in indices]

    found = cache.fill(keys, encode, Progress("test", len(keys), "items"))
    for key, tensors in zip(keys, found, strict=True):
        assert tensors.keys() == entry(key).keys()
        assert all(torch.equal(tensors[name], whole) for name, whole in entry(key).items())
        assert tensors["b"].dtype == torch.float16
    return asked


def files(tmp_path: Path) -> dict[str, Path]:
    return {file.stem: file for file in (tmp_path / FOLDER).glob("??/*.safetensors")}


def test_what_was_encoded_is_found_by_the_next_run(tmp_path: Path) -> None:
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache, [*KEYS, KEYS[0]]) == [0, 1, 2, 3]  # equal items once
        assert cache.use == CacheUse(found=1, encoded=4)
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == []
        assert cache.use == CacheUse(found=4)
    assert set(files(tmp_path)) == set(KEYS)
    assert not [
        file for file in (tmp_path / FOLDER).rglob("*") if file.suffix in {".part", ".keys"}
    ]


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "renamed", "text"])
def test_a_damaged_or_stale_file_is_encoded_anew_and_counted(tmp_path: Path, damage: str) -> None:
    with open_cache(settings(tmp_path)) as cache:
        fill(cache)
    file, other = files(tmp_path)[KEYS[1]], files(tmp_path)[KEYS[2]]
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[:-9],
            "changed": data[:-1] + bytes([data[-1] ^ 1]),
            "emptied": b"",
            "renamed": other.read_bytes(),
            "text": b"not a tensor in sight",
        }[damage]
    )
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == [1]
        assert cache.use == CacheUse(found=3, encoded=1, damaged=1)
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == []


def test_a_full_disk_costs_the_cache_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if len(files(tmp_path)) == 2 and path.suffix == ".part":
            write(path, data[:50])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == [0, 1, 2, 3]
        assert cache.use == CacheUse(encoded=4, unwritten=2)
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.undo()
    assert not list((tmp_path / FOLDER).rglob("*.part"))
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == [2, 3]


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file in the way")
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache) == [0, 1, 2, 3]
        assert cache.use == CacheUse(encoded=4, unwritten=4)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age, key in enumerate(KEYS):
        with open_cache(settings(tmp_path)) as cache:
            fill(cache, [key])
        os.utime(files(tmp_path)[key], (age, age))
    size = sum(file.stat().st_size for file in files(tmp_path).values())
    room = Settings(scratch=tmp_path, cache_gb=size / 1e9)
    with open_cache(room) as cache:
        fill(cache, [KEYS[0]])  # used: now the youngest
        fill(cache, ["f" * 64])
    assert set(files(tmp_path)) <= {KEYS[0], KEYS[3], "f" * 64}
    assert {KEYS[0], "f" * 64} <= set(files(tmp_path))
    assert sum(file.stat().st_size for file in files(tmp_path).values()) <= size


def test_a_run_under_way_keeps_what_it_uses_and_the_limit_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_cache(settings(tmp_path)) as first:
        fill(first)
        size = sum(file.stat().st_size for file in files(tmp_path).values())
        with open_cache(Settings(scratch=tmp_path, cache_gb=size / 1e9)) as second:
            assert fill(second, ["e" * 64, "f" * 64]) == [0, 1]
            assert second.use == CacheUse(encoded=2, unwritten=2)
        assert "full of what runs under way use" in caplog.text
        assert set(files(tmp_path)) == set(KEYS)
    with open_cache(Settings(scratch=tmp_path, cache_gb=size / 1e9)) as third:
        fill(third, ["e" * 64])
    assert "e" * 64 in files(tmp_path)
    assert len(files(tmp_path)) < 5


@pytest.mark.slow
def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    """Its list is there, but the lock went with the process."""
    code = """
import sys, os
from pathlib import Path
from test_train_cache import fill, settings
from lora_factory.train.cache import open_cache
opened = open_cache(settings(Path(sys.argv[1])))
fill(opened.__enter__())
os.kill(os.getpid(), 9)
"""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, check=False
    )
    assert killed.returncode == -9
    assert len(list((tmp_path / FOLDER / "runs").iterdir())) == 1
    size = sum(file.stat().st_size for file in files(tmp_path).values())
    with open_cache(Settings(scratch=tmp_path, cache_gb=size / 1e9)) as cache:
        assert fill(cache, ["e" * 64]) == [0]
        assert cache.use.unwritten == 0
    assert not list((tmp_path / FOLDER / "runs").iterdir())


def test_two_runs_fill_one_cache_at_once(tmp_path: Path) -> None:
    keys = [f"{number:064x}" for number in range(40)]
    with open_cache(settings(tmp_path)) as one, open_cache(settings(tmp_path)) as two:

        def both(indices: list[int]) -> Any:
            if two.use.encoded == 0:
                fill(two, keys)  # in the midst of the first one's work
            return [entry(keys[index]) for index in indices]

        one.fill(keys, both, Progress("test", len(keys), "items"))
    with open_cache(settings(tmp_path)) as cache:
        assert fill(cache, keys) == []


def test_no_room_at_all_is_no_cache(tmp_path: Path) -> None:
    with open_cache(settings(tmp_path, 0)) as cache:
        assert fill(cache) == [0, 1, 2, 3]
    assert not files(tmp_path)
