"""Artifact store: folders with a manifest written last, on any object store.

Layout under the store's URL::

    <kind>/<key>/<attempt>/…      files, written by any number of attempts
    <kind>/<key>/manifest.json    put-if-absent: the first attempt to finish wins

No manifest, no artifact. Readers verify every hash. Object stores by `obstore`
(file, S3, GCS, Azure); all of them have the conditional write this rests on.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore, from_url
from pydantic import ValidationError

from lora_factory.contracts.manifest import FileEntry, Kind, Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.errors import ArtifactError, ConfigurationError, ServiceUnavailable, SpecError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# A server that restarts is waited for; one that is gone for longer fails the task, which is
# tried again later. The retries' own number would end them after a few seconds.
PATIENCE: RetryConfig = {
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}
REFUSED = (PermissionError, PermissionDeniedError, UnauthenticatedError)
"""What a store raises whose keys or rights are wrong; obstore's own are no PermissionError."""
ARTIFACT_PATH = re.compile(r"[a-z]+/[0-9a-z]+/manifest\.json")
P = ParamSpec("P")
R = TypeVar("R")


def store_errors(call: Callable[P, R]) -> Callable[P, R]:
    """Turn the object store's exceptions into the factory's, at this one boundary."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except REFUSED as err:
            msg = f"artifact store refused access: {_first_line(err)}; check its permissions"
            raise ConfigurationError(msg) from err
        except (BaseError, TimeoutError, ConnectionError) as err:
            msg = f"artifact store did not answer: {_first_line(err)}; try again"
            raise ServiceUnavailable(msg) from err

    return wrapped


class ArtifactStore:
    """Reads and commits artifacts under one URL.

    Args:
        url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…``, ``az://…``.
        cache: local folder for files of remote artifacts.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self.url = url.rstrip("/")
        self._cache = cache
        self._local = local_root(self.url)
        self._store = open_objects(self.url, self._local)

    # -- reading ----------------------------------------------------------------------

    @store_errors
    def find(self, kind: Kind, key: str) -> str | None:
        """Reference (URI with its hash) of the committed artifact, or None."""
        data = self._get(f"{kind}/{key}/{MANIFEST}")
        return None if data is None else self._reference(kind, key, data)

    @store_errors
    def read_manifest(self, uri: str) -> Manifest:
        """The manifest at ``uri``; a ``#sha256=…`` fragment is verified.

        Raises:
            SpecError: ``uri`` is not in this store.
            ArtifactError: nothing committed there, or the bytes don't match.
        """
        return self._read(uri)[0]

    def _read(self, uri: str) -> tuple[Manifest, str]:
        address, _, fragment = uri.partition("#")
        path = address.removeprefix(self.url + "/")
        if path == address or not ARTIFACT_PATH.fullmatch(path):
            msg = f"{address!r} is no manifest.json in this deployment's store {self.url}"
            raise SpecError(msg)
        data = self._get(path)
        if data is None:
            msg = f"no artifact at {address}: never committed, or removed; run its stage again"
            raise ArtifactError(msg)
        found = hashlib.sha256(data).hexdigest()
        if fragment and fragment != f"sha256={found}":
            msg = f"manifest {address} has sha256 {found}, not {fragment}; do not use it"
            raise ArtifactError(msg)
        try:
            return Manifest.model_validate_json(data), found
        except ValidationError as err:
            msg = f"manifest {address} can't be read by this version: {_first_line(err)}"
            raise ArtifactError(msg) from err

    @store_errors
    def fetch(self, uri: str) -> LocalArtifact:
        """Bring an artifact's files to a local folder and verify each of them.

        Raises:
            SpecError, ArtifactError: as :meth:`read_manifest`; also for a damaged file.
        """
        manifest, digest = self._read(uri)
        prefix = f"{manifest.kind}/{manifest.key}/{manifest.attempt}"
        folder = (self._local or self._cache) / prefix
        for entry in manifest.files:
            target = folder / entry.path
            if not target.resolve().is_relative_to(folder.resolve()):
                msg = f"artifact {uri}: file {entry.path!r} points outside of it; do not use it"
                raise ArtifactError(msg)
            if self._local is None and _digest(target) != entry.sha256:
                self._download(f"{prefix}/{entry.path}", target)
            if _digest(target) != entry.sha256:
                msg = f"artifact {uri}: file {entry.path} is missing or damaged; make it anew"
                raise ArtifactError(msg)
        return LocalArtifact(folder, manifest, uri.partition("#")[0], digest)

    @store_errors
    def addresses(self, kind: Kind) -> list[str]:
        """Manifest URIs of the committed artifacts of a kind, by key."""
        keys = self._store.list_with_delimiter(f"{kind}/")["common_prefixes"]
        paths = [f"{key.rstrip('/')}/{MANIFEST}" for key in sorted(keys)]
        # A folder without a manifest is an attempt that never finished.
        return [f"{self.url}/{path}" for path in paths if self._is_there(path)]

    def lines(self, manifest: Manifest, name: str) -> Iterator[bytes]:
        """The lines of one file of an artifact, a chunk in memory at a time.

        Raises:
            ArtifactError: the manifest doesn't name the file, it is gone, or (once all lines
                were read) it is damaged.
        """
        entry = next((entry for entry in manifest.files if entry.path == name), None)
        path = f"{manifest.kind}/{manifest.key}/{manifest.attempt}/{name}"
        digest, rest = hashlib.sha256(), b""
        for chunk in self._chunks(path) if entry is not None else ():
            digest.update(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest
        if entry is None or digest.hexdigest() != entry.sha256:
            msg = f"artifact file {path} is missing or damaged; make the artifact anew"
            raise ArtifactError(msg)

    @store_errors
    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """One file of an artifact, whole and verified, without the others.

        Raises:
            ArtifactError: the manifest doesn't name the file, it is gone, or it is damaged.
        """
        entry = next((entry for entry in manifest.files if entry.path == name), None)
        path = f"{manifest.kind}/{manifest.key}/{manifest.attempt}/{name}"
        data = self._get(path) if entry is not None else None
        if entry is None or data is None or hashlib.sha256(data).hexdigest() != entry.sha256:
            msg = f"artifact file {path} is missing or damaged; make the artifact anew"
            raise ArtifactError(msg)
        return data

    # -- writing ----------------------------------------------------------------------

    @store_errors
    def commit(self, folder: Path, draft: Manifest) -> str:
        """Upload ``folder`` and write the manifest; returns the winner's reference.

        ``draft`` has no files yet. If another attempt committed first, its artifact is
        returned and this one's files are removed.
        """
        prefix = f"{draft.kind}/{draft.key}/{draft.attempt}"
        files = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            self._store.put(f"{prefix}/{name}", file)
            digest = _digest(file)
            files.append(FileEntry(path=name, size=file.stat().st_size, sha256=digest or ""))
        manifest = draft.model_copy(update={"files": tuple(files)})
        data = manifest.model_dump_json(indent=1).encode()
        path = f"{draft.kind}/{draft.key}/{MANIFEST}"
        try:
            self._store.put(path, data, mode="create")
        except AlreadyExistsError:
            winner = self._get(path)
            if winner is None:
                msg = f"{path} vanished while it was being read; try again"
                raise ServiceUnavailable(msg) from None
            # A put whose answer was lost is sent again, and then finds what it wrote itself.
            if winner != data:
                log.info("%s: another attempt committed first, using it", path)
                self._remove(f"{prefix}/{entry.path}" for entry in files)
            data = winner
        return self._reference(draft.kind, draft.key, data)

    @store_errors
    def check_writable(self) -> None:
        """Write and remove a small object.

        Raises:
            ConfigurationError: the store can't be written.
        """
        path = f".probe/{uuid4().hex}"
        try:
            self._store.put(path, b"probe")
            self._store.delete(path)
        except (OSError, BaseError) as err:
            msg = f"artifact store {self.url} can't be written: {_first_line(err)}; correct it"
            raise ConfigurationError(msg) from err

    # -- helpers ----------------------------------------------------------------------

    def _reference(self, kind: str, key: str, data: bytes) -> str:
        return f"{self.url}/{kind}/{key}/{MANIFEST}#sha256={hashlib.sha256(data).hexdigest()}"

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(self._store.get(path).bytes())
        except FileNotFoundError:
            return None

    def _is_there(self, path: str) -> bool:
        try:
            self._store.head(path)
        except FileNotFoundError:
            return False
        return True

    def _chunks(self, path: str) -> Iterator[bytes]:
        """The bytes at a path; none where there is nothing."""
        read = store_errors(self._open_stream)(path)
        step = store_errors(lambda: next(read, None))
        while (chunk := step()) is not None:
            yield chunk

    def _open_stream(self, path: str) -> Iterator[bytes]:
        try:
            stream = self._store.get(path).stream(min_chunk_size=1 << 20)
        except FileNotFoundError:
            return iter(())
        return (bytes(chunk) for chunk in stream)

    def _download(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{uuid4().hex}.part")
        try:
            with part.open("wb") as out:
                for chunk in self._store.get(path).stream(min_chunk_size=1 << 20):
                    out.write(chunk)
            part.replace(target)
        except FileNotFoundError:
            part.unlink(missing_ok=True)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                self._store.delete(path)
            except (OSError, BaseError) as err:
                log.warning("could not remove %s: %s", path, _first_line(err))


def open_store(settings: Settings) -> ArtifactStore:
    """The deployment's artifact store.

    Raises:
        ConfigurationError: ``LORA_FACTORY_STORE`` is missing or can't be used.
    """
    if not settings.store:
        msg = "no artifact store: set LORA_FACTORY_STORE, for example file:///srv/lora-factory"
        raise ConfigurationError(msg)
    return ArtifactStore(settings.store, settings.scratch.expanduser() / "artifacts")


def remove_tree(folder: Path) -> None:
    """Remove a local folder that may not be there."""
    shutil.rmtree(folder, ignore_errors=True)


def local_root(url: str) -> Path | None:
    """Folder of a ``file://`` URL; None for any other."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def open_objects(url: str, local: Path | None) -> ObjectStore:
    """The object store at a URL.

    Raises:
        ConfigurationError: it can't be opened.
    """
    try:
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
            return LocalStore(local)
        if url.startswith("s3://"):
            from boto3 import Session
            from obstore.auth.boto3 import Boto3CredentialProvider

            # boto3's chain knows profiles, SSO and instance roles; obstore alone does not.
            session = Session()
            endpoint = session.client("s3").meta.endpoint_url
            custom = not endpoint.endswith(".amazonaws.com")
            return obstore.store.S3Store.from_url(
                url,
                credential_provider=Boto3CredentialProvider(session),
                region=session.region_name or "us-east-1",
                retry_config=PATIENCE,
                client_options={"allow_http": endpoint.startswith("http://")},
                **({"endpoint": endpoint} if custom else {}),
            )
        return from_url(url, retry_config=PATIENCE)
    except (OSError, ValueError, BaseError) as err:
        msg = (
            f"artifact store {url} can't be opened: {_first_line(err)}; correct LORA_FACTORY_STORE"
        )
        raise ConfigurationError(msg) from err


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(err: BaseException) -> str:
    return str(err).split("\n", 1)[0]
