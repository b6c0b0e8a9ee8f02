"""Manifest: the commit record of an artifact, written last (design, section 2)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from lora_factory.contracts.base import Contract, Counts

Kind = Literal[
    "crawlplan",
    "crawlpart",
    "raw",
    "cleanpart",
    "clean",
    "dataset",
    "plan",
    "lora",
    "build",
    "evaluation",
    "release",
]
SCHEMA_VERSION = 1


class FileEntry(Contract):
    """One file of an artifact."""

    path: str = Field(description="Relative to the attempt's folder, forward slashes")
    size: int = Field(ge=0, description="Bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class InputEntry(Contract):
    """One input artifact, as it was read."""

    name: str
    manifest_uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Contract):
    """Everything needed to trust and to trace an artifact."""

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    stage: str
    stage_version: int
    key: str
    attempt: str
    spec: dict[str, Any]
    inputs: tuple[InputEntry, ...] = ()
    models: dict[str, str] = Field(default_factory=dict, description="Role → resolved revision")
    counts: Counts = Counts()
    stats: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    code_version: str
    created_at: datetime
    seconds: float = Field(0.0, ge=0, description="Wall time of the stage's run")


class StageResult(Contract):
    """What a stage hands on through XCom: a claim check, never the data."""

    manifest_uri: str
    sha256: str
    counts: Counts
    seconds: float = Field(0.0, ge=0, description="Wall time of the child process")
    reused: bool = Field(default=False, description="The artifact was there already")
