"""Pulled models on this machine's disk: where they lie, and whether they are what was locked.

The layout is the hub library's own (``models--org--name/blobs`` and ``snapshots/<commit>``,
below ``HF_HUB_CACHE`` or ``HF_HOME``), so that other programs find the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from lora_factory.errors import ModelError
from lora_factory.models.lock import LockedModel

CHUNK = 1 << 20


def cache_folder() -> Path:
    """The hub library's cache on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def repo_folder(model: str) -> Path:
    """Folder of one repository in the cache."""
    return cache_folder() / "--".join(("models", *model.split("/")))


def snapshot(locked: LockedModel) -> Path:
    """Folder with the files of a locked model, whether they are there or not."""
    return repo_folder(locked.model) / "snapshots" / locked.commit


def verify(locked: LockedModel, subfolder: str = "") -> None:
    """Check that a model's files are the locked ones; once a process.

    Args:
        locked: the model.
        subfolder: only files below it (a part of a diffusion base); empty: all of them.

    Raises:
        ModelError: a file is missing or has other bytes.
    """
    folder = snapshot(locked)
    for path, entry in locked.files.items():
        if subfolder and not path.startswith(f"{subfolder}/"):
            continue
        if problem := _problem(folder / path, entry.size, entry.sha256):
            msg = (
                f"model {locked.model}: {path} {problem}; "
                "run `python -m lora_factory profile pull` for this profile again"
            )
            raise ModelError(msg)


def damaged(
    locked: LockedModel, *, hashes: bool, on_bytes: Callable[[int], None] = lambda _: None
) -> dict[str, str]:
    """Path → what is wrong with it, for files that aren't the locked ones.

    Args:
        locked: the model.
        hashes: whether to read the bytes; sizes are compared in any case.
        on_bytes: called with the number of bytes read.
    """
    folder = snapshot(locked)
    found = {}
    for path, entry in locked.files.items():
        problem = _size_problem(folder / path, entry.size)
        if problem is None and hashes and sha256_of(folder / path, on_bytes) != entry.sha256:
            problem = "has another sha256 than the lock"
        if problem is not None:
            found[path] = problem
    return found


def sha256_of(file: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def git_sha1_of(file: Path) -> str:
    """Hex object id that git gives a file: sha1 over ``blob <size>\\0`` and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: Path) -> Iterable[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


@lru_cache(maxsize=1024)
def _verified(file: Path, sha256: str) -> bool:
    return sha256_of(file) == sha256


def _problem(file: Path, size: int, sha256: str) -> str | None:
    problem = _size_problem(file, size)
    if problem is None and not _verified(file.resolve(), sha256):
        return "has another sha256 than the lock"
    return problem


def _size_problem(file: Path, size: int) -> str | None:
    if not file.is_file():
        return "is missing"
    found = file.stat().st_size
    return None if found == size else f"has {found} bytes, not {size}"
