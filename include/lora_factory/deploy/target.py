"""What a deployment target does, whatever it is: plan → apply → smoke → promote → rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.serving import Prompt


class Release(Contract):
    """A LoRA on its way out: what it is, its file, and how to try it."""

    model: NewModel
    file: Path
    folder: Path | None = Field(
        None, description="Release folder: card, samples, both layouts; None: the file alone"
    )
    profile: str = Field("embedded", description="Model profile that its base is of")
    prompt: Prompt = Field(description="Holds the trigger word")
    seed: int = Field(1234, ge=0, lt=2**32)


class Plan(Contract):
    """What is there before anything changes."""

    live: str | None = Field(description="Version that users get now; stays if the release fails")
    steps: tuple[str, ...] = Field((), description="What deploying will do, one line each")


class Smoke(Contract):
    """What the smoke test saw."""

    seconds: float = Field(ge=0)
    contrast: float | None = Field(
        None, ge=0, description="Standard deviation of the picture, 0 to 128; None: none was drawn"
    )
    difference: float | None = Field(
        None, ge=0, description="Mean absolute difference to the base, 0 to 255"
    )


class Promotion(Contract):
    """What users get from now on."""

    endpoint: str
    previous: str | None


class Target(Protocol):
    """A place that serves LoRAs. Every step may be repeated: the same again changes nothing.

    A process that is killed between two steps leaves users what they had: the next run goes on,
    whichever version it brings. What a rollback returns to is stored before a promotion.

    All raise:
        ServiceUnavailable: it did not answer; try again later.
        ConfigurationError: address or key are missing or wrong.
    """

    name: str

    def plan(self, release: Release) -> Plan:
        """Look; change nothing."""

    def apply(self, release: Release) -> None:
        """Bring the version there, reachable by the administrator alone.

        Raises:
            ReleaseError: the target refuses it.
        """

    def smoke(self, release: Release) -> Smoke:
        """Draw with the version as a user would; where nothing draws, fetch it as a user would.

        Raises:
            ReleaseError: no picture, a blank one, or the base's own; or other bytes than were sent.
        """

    def promote(self, release: Release) -> Promotion:
        """Make it what users get."""

    def rollback(self, release: Release, plan: Plan) -> None:
        """Undo: withdraw the version; users get again what they got before."""
