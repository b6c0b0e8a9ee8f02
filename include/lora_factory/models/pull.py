"""Bring a profile's hub models to this machine: resumed, verified, locked.

Each file is downloaded to ``blobs/<hash>.incomplete`` of the hub library's cache and becomes
``blobs/<hash>`` once its hash is the hub's; what a killed pull had is gone on from (the hub
library itself begins anew, and verifies no hash of a plain download). Xet, the hub's other
protocol, is not used: what it writes can't be gone on from half-way either.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lora_factory.contracts.progress import Progress
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.cache import (
    cache_folder,
    damaged,
    git_sha1_of,
    repo_folder,
    sha256_of,
    snapshot,
)
from lora_factory.models.hub import COMMIT, HubFile, ask, choose, endpoint, hub_errors
from lora_factory.models.lock import Lock, LockedFile, LockedModel, read_lock, write_lock
from lora_factory.models.profiles import ModelRef, Profile

log = logging.getLogger(__name__)
Section = Literal["roles", "bases"]
SPARE = 256 << 20  # bytes of the disk that a pull leaves free


@dataclass(frozen=True)
class Wanted:
    """A role or base of a profile whose model is on a hub."""

    section: Section
    name: str
    entry: ModelRef

    @property
    def label(self) -> str:
        """As in the profile: ``roles.captioner``."""
        return f"{self.section}.{self.name}"


@dataclass(frozen=True)
class Job:
    """What to download for one of them."""

    wanted: Wanted
    commit: str
    licence: str
    files: list[HubFile]


def hub_entries(profile: Profile, only: Iterable[str] = ()) -> list[Wanted]:
    """Roles and bases with a hub model.

    Args:
        profile: the profile.
        only: labels or bare names to restrict them to; empty: all.

    Raises:
        ConfigurationError: a name of ``only`` is none of them.
    """
    entries: list[tuple[Section, str, ModelRef]] = [
        *(("roles", name, role) for name, role in profile.roles.items()),
        *(("bases", name, base) for name, base in profile.bases.items()),
    ]
    found = [Wanted(*entry) for entry in entries if entry[2].model is not None]
    names = {word for wanted in found for word in (wanted.label, wanted.name)}
    for word in only:
        if word not in names:
            offered = ", ".join(wanted.label for wanted in found) or "none"
            msg = f"profile {profile.name!r} pulls no {word!r}; it pulls: {offered}"
            raise ConfigurationError(msg)
    chosen = set(only)
    return [w for w in found if not chosen or {w.label, w.name} & chosen]


def pull(
    profile: Profile, file: Path, *, only: Iterable[str] = (), update: bool = False
) -> dict[str, str]:
    """Download what is missing, and write the lock file after each model.

    Args:
        profile: with the lock it had until now.
        file: lock file to write.
        only: see :func:`hub_entries`.
        update: ask the hub what the revisions mean today, instead of the locked commits.

    Returns:
        Label → why it can't be pulled, for models that can't; the others were pulled.

    Raises:
        ConfigurationError: the disk or the lock file, or the hub refuses the token.
        ServiceUnavailable: the hub didn't answer; what was downloaded is kept.
    """
    wanted = hub_entries(profile, only)
    write_lock(file, _carried(profile, read_lock(file)))  # that it can't is better known at once
    jobs, failed = [], {}
    for one in wanted:
        try:
            if (job := _job(one, update=update)) is not None:
                jobs.append(job)
        except ModelError as err:
            failed[one.label] = str(err)
    todo = {(job.wanted.entry.model, f.etag): _left(job, f) for job in jobs for f in job.files}
    _check_disk(sum(todo.values()))
    meter = Meter(sum(todo.values()))
    for job in jobs:
        try:
            locked = _fetch_model(job, meter)
        except ModelError as err:
            failed[job.wanted.label] = str(err)
            continue
        write_lock(file, _with(read_lock(file), job.wanted, locked))
        log.info(
            "%s: %s@%s, %d files, %s",
            job.wanted.label,
            locked.model,
            locked.commit[:12],
            len(locked.files),
            readable_size(locked.size),
        )
    return failed


def readable_size(size: int) -> str:
    """Bytes for people."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class Meter:
    """Progress over bytes, in MB, or kB where there are few."""

    def __init__(self, total: int) -> None:
        self._unit = 1_000_000 if total >= 10_000_000 else 1000
        name = "MB" if self._unit == 1_000_000 else "kB"
        self._progress = Progress("profile pull", -(-total // self._unit), name)
        self._bytes = 0

    def advance(self, count: int, note: str) -> None:
        """Count bytes."""
        self._bytes += count
        if (whole := self._bytes // self._unit - self._progress.done) > 0:
            self._progress.advance(whole, note)


def _carried(profile: Profile, lock: Lock) -> Lock:
    """The lock to begin with: what is locked already, wherever that was written."""
    roles = {n: r.locked for n, r in profile.roles.items() if r.locked is not None}
    bases = {n: b.locked for n, b in profile.bases.items() if b.locked is not None}
    return lock.model_copy(update={"roles": roles, "bases": bases})


def _with(lock: Lock, wanted: Wanted, locked: LockedModel) -> Lock:
    entries = getattr(lock, wanted.section) | {wanted.name: locked}
    return lock.model_copy(update={wanted.section: entries})


def _job(wanted: Wanted, *, update: bool) -> Job | None:
    """What to download; None where all of it is there.

    Raises:
        ModelError: the hub has something else than the profile or its lock says.
    """
    entry, locked = wanted.entry, None if update else wanted.entry.locked
    if locked is not None and not damaged(locked, hashes=True):
        log.info("%s: %s@%s is here", wanted.label, locked.model, locked.commit[:12])
        return None
    revision = entry.revision if locked is None else locked.commit
    listing = ask(entry.model or "", revision)
    what = f"model {entry.model}@{revision}"
    if not COMMIT.fullmatch(listing.commit):
        msg = f"{what}: the hub names no commit; HF_ENDPOINT is no hub"
        raise ModelError(msg)
    if COMMIT.fullmatch(revision) and listing.commit != revision:
        msg = f"{what}: the hub answers with commit {listing.commit}; do not use this HF_ENDPOINT"
        raise ModelError(msg)
    files = choose(listing, entry)
    pinned = dict(entry.hashes)
    if locked is not None:
        files = [file for file in files if file.path in locked.files]
        pinned |= {path: file.sha256 for path, file in locked.files.items()}
    by_path = {file.path: file for file in files}
    for path, sha256 in pinned.items():
        file = by_path.get(path)
        if file is None or (file.sha256 and file.sha256 != sha256):
            has = "no such file" if file is None else f"sha256 {file.sha256[:12]}…"
            msg = f"{what}: {path} is pinned to sha256 {sha256[:12]}…, the hub has {has}; refused"
            raise ModelError(msg)
    return Job(wanted, listing.commit, listing.licence, files)


def _left(job: Job, file: HubFile) -> int:
    """Bytes of a file that are still to come."""
    blob = _blob(job.wanted.entry.model or "", file)
    if blob.is_file() and blob.stat().st_size == file.size:
        return 0
    part = _part(blob)
    have = part.stat().st_size if part.is_file() else 0
    return file.size - have if have <= file.size else file.size


def _check_disk(needed: int) -> None:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE > free:
        msg = (
            f"model cache {cache_folder()}: {readable_size(needed)} to download, "
            f"{readable_size(free)} free; free some space or set HF_HOME to another disk"
        )
        raise ConfigurationError(msg)


def _fetch_model(job: Job, meter: Meter) -> LockedModel:
    """Download and verify one model's files, and make its snapshot.

    Raises:
        ModelError: a file is not what the hub, the profile or the lock says.
    """
    entry = job.wanted.entry
    model = entry.model or ""
    pinned = dict(entry.hashes)
    files = {}
    for file in job.files:
        with hub_errors(model, job.commit):
            blob = _fetch(model, job.commit, file, meter)
            found = sha256_of(blob)
        if pinned.get(file.path, found) != found:
            msg = f"model {model}: {file.path} has sha256 {found[:12]}…, not the pinned; refused"
            raise ModelError(msg)
        files[file.path] = LockedFile(size=file.size, sha256=found)
    locked = LockedModel(
        model=model,
        revision=entry.revision,
        variant=entry.variant,
        commit=job.commit,
        licence=job.licence,
        files=files,
    )
    # Last, so that a snapshot that is there is a whole one.
    with hub_errors(model, job.commit):
        for file in job.files:
            _link(_blob(model, file), snapshot(locked) / file.path)
    return locked


def _fetch(model: str, commit: str, file: HubFile, meter: Meter) -> Path:
    """The verified blob of a file, downloaded if it isn't there.

    Raises:
        ModelError: its bytes don't have the hub's hash; nothing of them is kept.
    """
    from filelock import FileLock

    blob = _blob(model, file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    # The hub library's own lock: two processes never write the same file.
    lock = cache_folder() / ".locks" / repo_folder(model).name / f"{file.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.is_file() and _hash(blob, file) == file.etag:
            return blob
        part = _part(blob)
        if part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        _download(model, commit, file, part, meter)
        if (found := _hash(part, file)) != file.etag:
            part.unlink()
            msg = (
                f"model {model}: {file.path} arrived with hash {found[:12]}…, the hub says "
                f"{file.etag[:12]}…; it was thrown away: pull again, or use another HF_ENDPOINT"
            )
            raise ModelError(msg)
        part.replace(blob)
    return blob


def _download(model: str, commit: str, file: HubFile, part: Path, meter: Meter) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    with part.open("ab") as stream:
        have = stream.tell()
        if have:
            log.info(
                "%s: goes on at %s of %s", file.path, readable_size(have), readable_size(file.size)
            )
        # A compressed answer has no ranges, and its size is another one.
        headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
        http_get(
            hf_hub_url(model, file.path, revision=commit, endpoint=endpoint()),
            cast("Any", stream),
            resume_size=have,
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=cast("Any", _bar(meter, file.path)),
        )


def _bar(meter: Meter, name: str) -> type[Any]:
    """A class that the hub library takes for tqdm, and that feeds the meter."""

    class Bar:
        def __init__(self, **_: Any) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            meter.advance(int(count or 0), name)

    return Bar


def _link(blob: Path, pointer: Path) -> None:
    """Let a snapshot's file be a blob, by a relative link."""
    target = os.path.relpath(blob, pointer.parent)
    if pointer.is_symlink() and str(pointer.readlink()) == target:
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    part = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(pointer)


def _hash(file: Path, expected: HubFile) -> str:
    return sha256_of(file) if expected.sha256 else git_sha1_of(file)


def _blob(model: str, file: HubFile) -> Path:
    return repo_folder(model) / "blobs" / file.etag


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")
