"""What a LoRA artifact says of its training, and the base it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from lora_factory.contracts.training import TrainReport
from lora_factory.errors import ArtifactError, ModelError, SpecError

if TYPE_CHECKING:
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.models.profiles import BaseEntry, Profile


def trained_report(lora: LocalArtifact) -> TrainReport:
    """How it was trained.

    Raises:
        SpecError: the artifact is of another kind.
        ArtifactError: its manifest tells neither base nor trigger.
    """
    if lora.manifest.kind != "lora":
        msg = f"{lora.uri} is a {lora.manifest.kind}, not a lora; give the URI of a LoRA's manifest"
        raise SpecError(msg)
    try:
        return TrainReport.model_validate(lora.manifest.stats)
    except ValidationError as err:
        msg = f"manifest of {lora.uri} is not that of a trained LoRA; train it again"
        raise ArtifactError(msg) from err


def base_of(profile: Profile, lora: LocalArtifact, name: str, who: str = "the LoRA") -> BaseEntry:
    """The base ``name`` that it was trained on, if it is still the same.

    Raises:
        SpecError: the profile has no such base.
        ModelError: the base has changed since.
    """
    entry = profile.base(name, "art")
    trained_on = lora.manifest.models.get(f"base:{name}")
    if trained_on is not None and trained_on != entry.resolve_revision():
        msg = f"base {name!r} has changed since {who} was trained on it; train it again"
        raise ModelError(msg)
    return entry
