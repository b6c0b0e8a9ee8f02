"""Rows of the catalog: models, deployments, ratings, retrain decisions."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from lora_factory.contracts.base import Contract
from lora_factory.contracts.specs import Name

Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2000)]

# candidate: published, not yet proven · deployed: answers users · approved: was deployed, a
# rollback may return to it · retired: failed its smoke test, rolled back, or withdrawn
State = Literal["candidate", "approved", "deployed", "retired"]


class NewModel(Contract):
    """A LoRA as it is published: who made it from what, and how good it was found."""

    name: Name = Field(description="Adapter name users ask for")
    version: Version = Field(description="First 12 hex digits of the lora artifact's sha256")
    sha256: Sha256 = Field(description="Of lora.safetensors")
    base: str = Field(min_length=1, max_length=64, description="Name of the base in the profile")
    trigger: Name
    overall: float = Field(ge=0, le=1, description="Evaluation's overall score")
    lora: Uri = Field(description="Manifest URI")
    evaluation: Uri = Field(description="Manifest URI")
    dataset: Uri | None = Field(None, description="Manifest URI")
    conf: dict[str, JsonValue] = Field(default_factory=dict, description="RunConf, for retraining")


Scope = Literal["generate", "feedback", "admin"]


class ApiKey(Contract):
    """A key of the serving app; ``lf_<id>_<secret>``, the secret not kept."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=100, description="Whose it is")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    per_minute: int = Field(60, ge=1, le=100_000, description="Requests a minute")
    created_at: datetime
    revoked_at: datetime | None = None


class Model(NewModel):
    """A row of ``models``."""

    state: State
    created_at: datetime
    taken_down: str | None = Field(
        None, description="Item of a takedown that it was trained with; it must not be served"
    )


class Deployment(Contract):
    """A row of ``deployments``; the one without ``ended_at`` is live."""

    name: str
    version: str
    target: str
    previous: str | None = Field(description="Version that a rollback returns to")
    promoted_at: datetime
    ended_at: datetime | None = None


class RatingSummary(Contract):
    """What users said about a deployed version."""

    n: int = Field(ge=0, description="Ratings of this version")
    mean: float | None = Field(ge=0, le=1, description="None: no rating")
    new_items: int = Field(ge=0, description="Ratings of this name, any version, since promotion")


class RetrainDecision(Contract):
    """A row of ``retrain_decisions``: one for each name, version and day."""

    name: str
    version: str
    day: date
    verdict: Literal["keep", "retrain"]
    reason: str
    mean: float | None
    n: int
    new_items: int
    run_id: str | None = Field(None, description="Run that a retrain verdict asks for")


class Training(Contract):
    """A training under way in a run, as it last said."""

    run_id: str = Field(min_length=1, max_length=250)
    step: int = Field(ge=0)
    steps: int = Field(ge=1)
    started_at: datetime
    seen_at: datetime
    stop_at: datetime | None = Field(None, description="When a person asked it to end")
    stop_by: str | None = None
