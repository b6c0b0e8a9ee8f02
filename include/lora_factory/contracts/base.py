"""The base of every contract: frozen, closed, hashable as canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Contract(BaseModel):
    """An immutable record; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageSpec(Contract):
    """What every stage's Spec shares.

    ``inputs`` names the fields that hold the ``manifest.json`` URI of an input artifact
    (or None). They enter the artifact key by the manifest's hash, not by their URI, so
    that an artifact copied to another store keeps its key.
    """

    inputs: ClassVar[tuple[str, ...]] = ()

    profile: str = Field("embedded", description="Model profile (a TOML file of roles)")
    force: bool = Field(default=False, description="Make the artifact anew even if it exists")


class Counts(Contract):
    """How many items went in, were kept, and were dropped, by reason code."""

    seen: int = Field(0, ge=0)
    kept: int = Field(0, ge=0)
    dropped: dict[str, int] = Field(default_factory=dict)


class StageReport(Contract):
    """What a stage tells about what it did; stored in the manifest as ``stats``."""

    counts: Counts = Counts()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """Hex sha256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()
