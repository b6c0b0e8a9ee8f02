"""Bodies of the serving app's HTTP API, shared by the app and those who call it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import Version
from lora_factory.contracts.specs import Name

# No control characters: a prompt is one line of text, and ends up in logs and pages.
Prompt = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=500,
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$",
    ),
]


class Failure(Contract):
    """Every answer with a status of 400 or more."""

    error: str
    rule: str | None = Field(None, description="Content rule that refused a prompt or a picture")


class GenerateRequest(Contract):
    """``POST /v1/generate``. Without ``adapter`` the base model draws."""

    prompt: Prompt
    adapter: Name | None = None
    version: Version | None = Field(None, description="Not promoted yet: administrators only")
    seed: int | None = Field(None, ge=0, lt=2**32, description="None: random")
    steps: int | None = Field(None, ge=1, le=100, description="None: the base's own")
    guidance: float | None = Field(None, ge=1, le=30, description="None: the base's own")
    strength: float = Field(1.0, ge=0, le=2, description="Scale of the LoRA's change")


class GenerateResponse(Contract):
    """One picture."""

    image: str = Field(description="PNG, base64")
    generation_id: str
    adapter: str | None
    version: str | None
    seed: int
    seconds: float = Field(ge=0, description="From request to picture, waiting included")
    rating_token: str | None = Field(description="Hand it back with a rating; None: not ratable")
    marks: tuple[str, ...] = Field(
        description="That the picture carries: c2pa; watermark from 256 pixels up"
    )


class Job(Contract):
    """``POST /v1/jobs``, ``GET /v1/jobs/{id}``: a picture that is fetched later."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    created_at: datetime
    step: int = Field(0, ge=0, description="Denoising steps done")
    steps: int = Field(0, ge=0, description="Of how many; 0: not known any more")
    result: GenerateResponse | None = None
    failure: Failure | None = None


class FeedbackRequest(Contract):
    """``POST /v1/feedback``."""

    rating_token: str = Field(min_length=1, max_length=300)
    rating: float = Field(ge=0, le=1, description="Thumbs are 0 and 1")
    user: str = Field(min_length=1, max_length=200, description="Stored as a pseudonym only")
    reason: str = Field("", max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")


class PromoteRequest(Contract):
    """``POST /v1/adapters/{name}/promote``."""

    version: Version


class Adapter(Contract):
    """What users can ask for: the live version of a name."""

    name: str
    version: str
    base: str
    trigger: str
    overall: float
    taken_down: bool = Field(
        default=False, description="Trained with an item that was taken down; to be retired"
    )


class AdapterList(Contract):
    """``GET /v1/adapters``."""

    adapters: tuple[Adapter, ...]
