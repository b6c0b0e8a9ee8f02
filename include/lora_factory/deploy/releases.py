"""Releases on a bucket: each in a folder named by its content, and what was promoted when.

Layout under ``LORA_FACTORY_RELEASES``::

    <adapter>/<version>/<digest>/…      what is published of a release folder, its note last
    <adapter>/promoted-<target>.json    which versions were promoted, in order
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.cloud import NOTE, WEIGHTS, AwsAccess, ReleaseNote
from lora_factory.contracts.registry import Version
from lora_factory.deploy.revisions import Revision
from lora_factory.deploy.target import Release
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from lora_factory.store.artifacts import REFUSED
from lora_factory.store.buckets import open_bucket

PUBLISHED = ("README.md", "lora.kohya.safetensors", "ethics.json", "evaluation.json", "samples/*")
"""Of a release folder, beside its weights; the rest names places of the deployment's own."""
REMEMBERED = 20


class Promoted(Contract):
    """Versions that were promoted, the newest last; a rollback returns to the one before."""

    versions: tuple[Version, ...] = ()

    def then(self, live: str | None, version: str) -> Promoted:
        """With a version that is promoted after the live one.

        What was promoted after the live one was rolled back, or never got there.
        """
        past = self.until(live).versions if live else ()
        if past[-1:] != (version,):
            past = (*past, version)
        return Promoted(versions=past[-REMEMBERED:])

    def until(self, version: str) -> Promoted:
        """As it was when this version was live."""
        past = self.versions
        while past and past[-1] != version:
            past = past[:-1]
        return Promoted(versions=past or (version,))

    def before(self, version: str) -> str | None:
        """The version that was live before this one."""
        past = self.until(version).versions
        return past[-2] if len(past) > 1 else None


class Releases:
    """Uploads releases and remembers promotions.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://…``; ``file://`` in tests.
        access: keys of an S3 bucket; None: boto3's own chain.
    """

    def __init__(self, url: str, access: AwsAccess | None = None) -> None:
        self.url = url.rstrip("/")
        self._store = open_bucket(self.url, access)

    def upload(self, release: Release) -> Revision:
        """Bring a release there, file by file, its note last; twice is once."""
        model, files = release.model, _files(release)
        note = ReleaseNote(
            name=model.name,
            version=model.version,
            base=model.base,
            trigger=model.trigger,
            profile=release.profile,
            sha256=model.sha256,
        )
        if _sha256(release.file) != model.sha256:
            msg = f"{model.name} {model.version}: {WEIGHTS} is not the file that was evaluated"
            raise ReleaseError(msg)
        data = note.model_dump_json(indent=1).encode()
        digest = hashlib.sha256(data).hexdigest()
        folder = f"{model.name}/{model.version}/{digest[:16]}"
        if self._get(f"{folder}/{NOTE}") != data:
            with self._errors():
                for path, file in files.items():
                    self._store.put(f"{folder}/{path}", file)
                self._store.put(f"{folder}/{NOTE}", data)
        return Revision(version=model.version, uri=f"{self.url}/{folder}", digest=digest)

    def promoted(self, adapter: str, target: str) -> Promoted:
        """What was promoted; nothing yet: empty.

        Raises:
            ReleaseError: the object is damaged.
        """
        path = f"{adapter}/promoted-{target}.json"
        data = self._get(path)
        try:
            return Promoted() if data is None else Promoted.model_validate_json(data)
        except ValidationError as err:
            msg = f"{self.url}/{path} is not the factory's; remove it, then nothing can roll back"
            raise ReleaseError(msg) from err

    def remember(self, adapter: str, target: str, promoted: Promoted) -> None:
        """Store what was promoted; the same again writes nothing."""
        if self.promoted(adapter, target) == promoted:
            return
        with self._errors():
            data = promoted.model_dump_json().encode()
            self._store.put(f"{adapter}/promoted-{target}.json", data)

    def _get(self, path: str) -> bytes | None:
        with self._errors():
            try:
                return bytes(self._store.get(path).bytes())
            except FileNotFoundError:
                return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except REFUSED as err:
            msg = f"bucket {self.url} refuses access: {_line(err)}; correct its rights"
            raise ConfigurationError(msg) from err
        except (BaseError, OSError) as err:
            msg = f"bucket {self.url} did not answer: {_line(err)}; try again later"
            raise ServiceUnavailable(msg) from err


def _files(release: Release) -> dict[str, Path]:
    folder = release.folder or release.file.parent
    found = {WEIGHTS: release.file}
    for pattern in PUBLISHED:
        for file in sorted(folder.glob(pattern)):
            found.setdefault(file.relative_to(folder).as_posix(), file)
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0][:200]
