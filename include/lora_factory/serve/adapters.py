"""The server's folder of LoRA files, named by their sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from lora_factory.errors import ConfigurationError, SpecError
from lora_factory.serve.engine import AdapterFile

CHUNK = 1 << 20


class Upload(Protocol):
    """What is read from: an uploaded file."""

    async def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; empty at the end."""


class AdapterFolder:
    """``<root>/<sha256>.safetensors``; what is being received lies in ``<root>/incoming``."""

    def __init__(self, root: Path) -> None:
        self._root, self._incoming = root, root / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            for left in self._incoming.iterdir():  # of a process that was killed
                left.unlink()
        except OSError as err:
            msg = f"adapter folder {root} can't be written: {err.strerror}; choose another"
            raise ConfigurationError(msg) from err

    def find(self, sha256: str) -> AdapterFile:
        """The file of a published version; the engine checks it when it loads it."""
        return AdapterFile(self._root / f"{sha256}.safetensors", sha256)

    async def receive(self, upload: Upload, sha256: str) -> AdapterFile:
        """Write an upload beside the folder's files; :meth:`keep` or :meth:`drop` it then.

        Raises:
            SpecError: the bytes are not those that ``sha256`` announces.
        """
        received = AdapterFile(self._incoming / f"{uuid4().hex}.safetensors", sha256)
        complete = False
        try:
            complete = await _copy(upload, received.path) == sha256
        finally:
            if not complete:
                self.drop(received)
        if not complete:
            msg = "lora.safetensors has another sha256 than its metadata says; send it again"
            raise SpecError(msg)
        return received

    def keep(self, received: AdapterFile) -> None:
        """Put a received file in its place, whole or not at all."""
        received.path.replace(self.find(received.sha256).path)

    def drop(self, received: AdapterFile) -> None:
        """Remove a received file."""
        received.path.unlink(missing_ok=True)


async def _copy(upload: Upload, path: Path) -> str:
    """Write an upload to ``path``; returns its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        while chunk := await upload.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
