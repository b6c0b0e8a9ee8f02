"""The port to a cloud: a service with revisions, and shares of the traffic.

What AWS Lambda calls version and alias, Cloud Run revision and traffic, Azure ML deployment and
endpoint, SageMaker endpoint configuration and endpoint. A target's logic (order, last good one,
undoing) is written once over this port (:mod:`lora_factory.deploy.cloud`); a cloud's own module
only says how its API does each of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.cloud import DIGEST, URI
from lora_factory.contracts.registry import Sha256, Version
from lora_factory.contracts.serving import GenerateRequest, GenerateResponse


class Revision(Contract):
    """A version as a service runs it."""

    version: Version
    uri: str = Field(description="Folder of the uploaded release")
    digest: Sha256 = Field(description="Of the release's note, which names its weights' hash")

    def environment(self) -> dict[str, str]:
        """What the container that serves it is told."""
        return {URI: self.uri, DIGEST: self.digest}


class Revisions(Protocol):
    """One cloud. Each call may be repeated: the same again changes nothing.

    All raise:
        ServiceUnavailable: no answer, or the cloud is busy; try again later.
        ConfigurationError: address, image, role or rights are missing or wrong.
        ReleaseError: the cloud refuses what is asked.
    """

    name: str
    kept: int
    """Promoted revisions that stay, the live one included: those that a rollback can return to."""
    splits: bool
    """Whether traffic can be split between two revisions."""

    def service(self, adapter: str) -> str:
        """Name of an adapter's service."""

    def check(self) -> None:
        """Look whether image and rights are there, before anything is made."""

    def revisions(self, service: str) -> dict[str, str]:
        """Version → digest of each revision that is there; empty where there is no service."""

    def publish(self, service: str, revision: Revision) -> None:
        """Make a revision and wait until it can answer; users don't get it."""

    def traffic(self, service: str) -> dict[str, int]:
        """Version → percent of what users ask; empty: they get nothing."""

    def shift(self, service: str, traffic: Mapping[str, int]) -> None:
        """Set the traffic; empty: users get nothing any more."""

    def invoke(
        self, service: str, version: str | None, request: GenerateRequest
    ) -> GenerateResponse:
        """Draw with one revision, or with what users get (None).

        Raises:
            ReleaseError: it answers with an error, or with no picture.
        """

    def delete(self, service: str, version: str) -> None:
        """Remove a revision that gets no traffic."""

    def endpoint(self, service: str) -> str:
        """Where users ask, once there is traffic."""


def service_name(prefix: str, adapter: str, limit: int) -> str:
    """``<prefix>-<adapter>`` of letters, digits and ``-``; shortened names stay different."""
    whole = f"{prefix}-{adapter}"
    plain = whole.replace("_", "-").rstrip("-")
    if plain == whole and len(whole) <= limit:
        return whole
    mark = hashlib.sha256(adapter.encode()).hexdigest()[:8]
    return f"{plain[: limit - 9].rstrip('-')}-{mark}"
