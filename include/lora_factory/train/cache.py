"""Encoded images and captions kept on disk by what decides them, for every run on a machine.

An entry is a safetensors file named by a sha256 (:mod:`lora_factory.train.data` makes the keys).
Files appear whole (written aside and renamed), so two runs may fill one folder at once: at worst
both encode the same item. What can't be read is encoded anew; what can't be written is held in
memory only, since a full disk is no reason to lose a training.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from uuid import uuid4

from lora_factory.contracts.training import CacheUse

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.contracts.progress import Progress
    from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
CHUNK = 16
"""Items encoded between two looks at the stop signal."""
FOLDER = "encoded"
RUNS = "runs"
FORGOTTEN = 3600.0
"""Seconds after which a half-written file is a killed run's."""
KEPT = 0.9
"""Share of its limit that the cache is brought down to when it is full."""


class EncodingCache:
    """A folder of entries, at most ``max_bytes`` in all; what was used longest ago goes first.

    ``in_use`` is this run's list of the entries it has read or written, which other runs leave
    alone for as long as the list is locked. See :func:`open_cache`.
    """

    def __init__(self, folder: Path, max_bytes: int, in_use: TextIO | None) -> None:
        self._folder, self._max_bytes, self._in_use = folder, max_bytes, in_use
        self._total: int | None = None
        self._writing = in_use is not None and max_bytes > 0
        self._hits = self._encoded = self._damaged = self._unwritten = 0

    @property
    def use(self) -> CacheUse:
        """What this run found and did not find."""
        return CacheUse(
            found=self._hits,
            encoded=self._encoded,
            damaged=self._damaged,
            unwritten=self._unwritten,
        )

    def fill(
        self,
        keys: Sequence[str],
        encode: Callable[[list[int]], list[dict[str, Tensor]]],
        progress: Progress,
    ) -> list[dict[str, Tensor]]:
        """The entries of ``keys``; ``encode`` makes those of the indices it is given."""
        held: dict[str, dict[str, Tensor]] = {}
        lacking: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key in held or key in lacking:
                continue
            found = self._get(key)
            if found is None:
                lacking[key] = index
            else:
                held[key] = found
        if len(lacking) < len(keys):
            progress.advance(len(keys) - len(lacking), "from the cache")
        waiting = list(lacking.items())
        for start in range(0, len(waiting), CHUNK):
            part = waiting[start : start + CHUNK]
            made = encode([index for _, index in part])
            for (key, _), tensors in zip(part, made, strict=True):
                held[key] = tensors
                self._put(key, tensors)
            progress.advance(len(part))
        self._hits += len(keys) - len(lacking)
        self._encoded += len(lacking)
        return [held[key] for key in keys]

    # -- files

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"

    def _get(self, key: str) -> dict[str, Tensor] | None:
        self._claim(key)  # first, so that no other run takes it from under us
        file = self._file(key)
        try:
            tensors = _read(file, key)
            os.utime(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as err:
            log.warning("cache file %s is damaged (%s); encoding its item again", file.name, err)
            self._damaged += 1
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return None
        return tensors

    def _put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        if self._writing:
            file = self._file(key)
            part = file.with_name(f".{key}.{uuid4().hex}.part")
            try:
                data = _pack(key, tensors)
                if self._has_room(len(data)):
                    file.parent.mkdir(exist_ok=True)
                    part.write_bytes(data)
                    part.replace(file)
                    return
            except OSError as err:
                self._writing = False
                log.warning(
                    "cache %s can't be written (%s); going on without it",
                    self._folder,
                    err.strerror,
                )
                with suppress(OSError):
                    part.unlink(missing_ok=True)
        self._unwritten += 1

    def _claim(self, key: str) -> None:
        if self._in_use is not None:
            with suppress(OSError):  # on a full disk the entry may be evicted, and made again
                self._in_use.write(f"{key}\n")
                self._in_use.flush()

    # -- size

    def _has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes fit; evicts if need be."""
        if self._total is None or self._total + size > self._max_bytes:
            self._total = self._evict(size)
        if self._total + size > self._max_bytes:
            self._writing = False
            log.warning(
                "cache %s is full of what runs under way use (%.1f MB); going on without it",
                self._folder,
                self._total / 1e6,
            )
            return False
        self._total += size
        return True

    def _evict(self, size: int) -> int:
        """Delete entries that no run uses, oldest use first, until ``size`` fits; bytes left."""
        entries, total = [], 0
        for file in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):  # another run evicts too
                stat = file.stat()
                if file.suffix == ".part" and time.time() - stat.st_mtime > FORGOTTEN:
                    file.unlink()
                    continue
                entries.append((stat.st_mtime, stat.st_size, file))
                total += stat.st_size
        if total + size <= self._max_bytes:
            return total
        used = self._used()
        for _, length, file in sorted(entries):
            if total + size <= KEPT * self._max_bytes:
                break
            if file.stem not in used and file.suffix != ".part":
                file.unlink(missing_ok=True)
                total -= length
        return total

    def _used(self) -> set[str]:
        """Keys of every run under way; lists of runs that ended are removed."""
        keys: set[str] = set()
        for file in (self._folder / RUNS).glob("*.keys"):
            with suppress(FileNotFoundError), file.open("r", encoding="ascii") as listed:
                try:
                    fcntl.flock(listed, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    keys.update(listed.read().split())
                else:
                    file.unlink()
        return keys


@contextmanager
def open_cache(settings: Settings) -> Iterator[EncodingCache]:
    """The deployment's cache; entries, once touched, stay until the block (or the process) ends."""
    folder, max_bytes = settings.scratch.expanduser() / FOLDER, int(settings.cache_gb * 1e9)
    file = folder / RUNS / f"{uuid4().hex}.keys"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("w", encoding="ascii")
    except OSError as err:
        log.warning("cache %s can't be used (%s); going on without it", folder, err.strerror)
        yield EncodingCache(folder, 0, None)
        return
    with opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # the operating system gives it back, however we end
        try:
            yield EncodingCache(folder, max_bytes, opened)
        finally:
            file.unlink(missing_ok=True)


def _pack(key: str, tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data: bytes = save(whole, metadata={"key": key, "crc32": str(_crc32(whole))})
    return data


def _read(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of an entry.

    Raises:
        FileNotFoundError: there is none.
        OSError, ValueError: it can't be read, is cut short, changed, or of another key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = file.read_bytes()
    try:
        tensors: dict[str, Tensor] = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        told = (header["key"], int(header["crc32"]))
    except (SafetensorError, KeyError, TypeError) as err:
        msg = "not whole"
        raise ValueError(msg) from err
    if told != (key, _crc32(tensors)):
        msg = "its bytes are others than were written"
        raise ValueError(msg)
    return tensors


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    import torch

    found = 0
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return found
