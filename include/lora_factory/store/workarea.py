"""Where several processes put what they make before it becomes an artifact.

Objects under one prefix of the artifact store, so that processes on other machines share them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from obstore.exceptions import AlreadyExistsError

from lora_factory.errors import ArtifactError
from lora_factory.store.artifacts import local_root, open_objects, store_errors


class WorkArea:
    """Objects at ``url``; paths are relative to it.

    Args:
        url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…``, ``az://…``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._local = local_root(self.url)
        self._store = open_objects(self.url, self._local)

    @store_errors
    def put(self, path: str, data: bytes) -> None:
        """Write an object, complete or not at all."""
        self._store.put(path, data)

    @store_errors
    def put_once(self, path: str, data: bytes) -> bool:
        """Write an object unless it is there; returns whether it was written."""
        try:
            self._store.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def names(self, folder: str) -> Iterator[str]:
        """Paths below a folder, in no order, some at a time in memory."""
        for batch in self._list(folder):
            yield from (str(entry["path"]) for entry in batch)

    @store_errors
    def folders(self) -> list[str]:
        """Names of what lies right below."""
        found = {str(path).rpartition("/")[2] for path in self._prefixes()}
        return sorted(found)

    def _prefixes(self) -> list[str]:
        if self._local is not None:  # empty ones too, which no object store has
            return [entry.name for entry in self._local.iterdir() if entry.is_dir()]
        return list(self._store.list_with_delimiter()["common_prefixes"])

    def latest(self) -> datetime | None:
        """When the newest object came; None where there is none."""
        times = [entry["last_modified"] for batch in self._list("") for entry in batch]
        return max((at for at in times if isinstance(at, datetime)), default=None)

    @store_errors
    def read(self, path: str) -> bytes:
        """The bytes of an object.

        Raises:
            ArtifactError: it isn't there.
        """
        try:
            return bytes(self._store.get(path).bytes())
        except FileNotFoundError as err:
            raise self._missing(path) from err

    @store_errors
    def bring(self, path: str, target: Path) -> None:
        """Make a local file of an object; of a local store's by a link, where that can be.

        Raises:
            ArtifactError: it isn't there.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            if self._local is None:
                with target.open("wb") as out:
                    for chunk in self._store.get(path).stream(min_chunk_size=1 << 20):
                        out.write(chunk)
                return
            try:
                os.link(self._local / path, target)
            except FileNotFoundError:
                raise
            except OSError:  # another file system, or one without links
                shutil.copyfile(self._local / path, target)
        except FileNotFoundError as err:
            raise self._missing(path) from err

    def _missing(self, path: str) -> ArtifactError:
        return ArtifactError(f"{self.url}/{path} is gone; run what made it again")

    @store_errors
    def clear(self) -> None:
        """Remove everything."""
        if self._local is not None:
            shutil.rmtree(self._local, ignore_errors=True)
            return
        for batch in self._list(""):
            self._store.delete([str(entry["path"]) for entry in batch])

    def _list(self, folder: str) -> Iterator[list[dict[str, object]]]:
        batches = store_errors(lambda: iter(self._store.list(folder or None)))()
        step = store_errors(lambda: next(batches, None))
        while (batch := step()) is not None:
            yield batch  # type: ignore[misc]  # obstore's ObjectMeta is a dict
