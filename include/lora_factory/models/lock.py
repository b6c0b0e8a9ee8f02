"""``<profile>.lock.toml``: which bytes a profile's hub models are, once they were pulled.

``profile pull`` writes it: for each role and base the commit that its revision meant that day,
and size and sha256 of every file. Loaders then take these bytes and no others, so that a branch
that moves, a mirror that lies or a cache that rots is an error instead of another model.
"""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.errors import ConfigurationError

SUFFIX = ".lock.toml"


class LockedFile(Contract):
    """Size in bytes and hash of one file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LockedModel(Contract):
    """One pulled model: what was asked for, and what it was."""

    model: str
    revision: str = Field(description="As the profile has it: a commit, a tag or a branch")
    variant: str = ""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    licence: str = Field("", max_length=100, description="Of its card on the hub")
    files: dict[str, LockedFile] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class Lock(Contract):
    """All pulled models of a profile."""

    version: Literal[1] = 1
    roles: dict[str, LockedModel] = Field(default_factory=dict)
    bases: dict[str, LockedModel] = Field(default_factory=dict)


def read_lock(file: Path) -> Lock:
    """The lock in a file; an empty one where there is none.

    Raises:
        ConfigurationError: the file can't be used.
    """
    try:
        return Lock.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Lock()
    except (OSError, ValueError) as err:  # of TOML, of UTF-8, of the model
        what = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
        msg = f"lock file {file} can't be read ({what.splitlines()[0]}); pull the profile again"
        raise ConfigurationError(msg) from err


def write_lock(file: Path, lock: Lock) -> None:
    """Replace a lock file, all at once.

    Raises:
        ConfigurationError: the folder can't be written.
    """
    part = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(_toml(lock, file.name.removesuffix(SUFFIX)), encoding="utf-8")
        part.replace(file)
    except OSError as err:
        with suppress(OSError):
            part.unlink()
        msg = (
            f"lock file {file} can't be written ({err.strerror}); "
            "set LORA_FACTORY_PROFILES to a folder that can"
        )
        raise ConfigurationError(msg) from err


def _toml(lock: Lock, name: str) -> str:
    """TOML; a JSON string without escapes beyond the common ones is a TOML string."""
    lines = [
        f"# Written by `python -m lora_factory profile pull {name}`. Loaders refuse other bytes.",
        f"version = {lock.version}",
    ]
    for section, entries in (("roles", lock.roles), ("bases", lock.bases)):
        for key, entry in sorted(entries.items()):
            lines += ["", f"[{section}.{_text(key)}]"]
            for field in ("model", "revision", "variant", "commit", "licence"):
                if value := getattr(entry, field):
                    lines.append(f"{field} = {_text(value)}")
            lines.append(f"[{section}.{_text(key)}.files]")
            lines += [
                f'{_text(path)} = {{ size = {found.size}, sha256 = "{found.sha256}" }}'
                for path, found in sorted(entry.files.items())
            ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
