"""Bodies of the serving app's HTTP API, shared by the app and those who call it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

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


def example(*values: dict[str, Any]) -> ConfigDict:
    """What the OpenAPI description shows of a body."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class Failure(Contract):
    """Every answer with a status of 400 or more."""

    model_config = example(
        {"error": "prompt: String should have at most 500 characters"},
        {"error": "the prompt is refused", "rule": "sexual"},
    )
    error: str
    rule: str | None = Field(None, description="Content rule that refused a prompt or a picture")


class GenerateRequest(Contract):
    """``POST /v1/generate``. Without ``adapter`` the base model draws."""

    model_config = example(
        {"prompt": "a red apple, icnx", "adapter": "food_icons", "seed": 7, "strength": 0.8},
        {"prompt": "a red apple", "steps": 20, "guidance": 4.0},
    )
    prompt: Prompt
    adapter: Name | None = None
    version: Version | None = Field(None, description="Not promoted yet: administrators only")
    seed: int | None = Field(None, ge=0, lt=2**32, description="None: random")
    steps: int | None = Field(None, ge=1, le=100, description="None: the base's own")
    guidance: float | None = Field(None, ge=1, le=30, description="None: the base's own")
    strength: float = Field(1.0, ge=0, le=2, description="Scale of the LoRA's change")


_PICTURE = {
    "image": "iVBORw0KGgo=",
    "generation_id": "0198a7c2-5d0e-7c44-9d5e-0d6a3c1f7b52",
    "adapter": "food_icons",
    "version": "3f9a41c07be2",
    "seed": 7,
    "seconds": 1.4,
    "rating_token": "MDE5OGE3YzI.aRxYvA.signed",
    "marks": ["c2pa"],
}


class GenerateResponse(Contract):
    """One picture."""

    model_config = example(_PICTURE)
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

    model_config = example(
        {
            "id": "8d1f0c3b5a6e4f7c9b2a1d0e3c4f5a6b",
            "state": "running",
            "created_at": "2026-01-31T12:00:00Z",
            "step": 7,
            "steps": 20,
        },
        {
            "id": "8d1f0c3b5a6e4f7c9b2a1d0e3c4f5a6b",
            "state": "done",
            "created_at": "2026-01-31T12:00:00Z",
            "step": 20,
            "steps": 20,
            "result": _PICTURE,
        },
    )
    id: str
    state: Literal["waiting", "running", "done", "failed"]
    created_at: datetime
    step: int = Field(0, ge=0, description="Denoising steps done")
    steps: int = Field(0, ge=0, description="Of how many; 0: not known any more")
    result: GenerateResponse | None = None
    failure: Failure | None = None


class FeedbackRequest(Contract):
    """``POST /v1/feedback``."""

    model_config = example(
        {"rating_token": "MDE5OGE3YzI.aRxYvA.signed", "rating": 1, "user": "kim"},
        {
            "rating_token": "MDE5OGE3YzI.aRxYvA.signed",
            "rating": 0,
            "user": "kim",
            "reason": "not an apple",
        },
    )
    rating_token: str = Field(min_length=1, max_length=300)
    rating: float = Field(ge=0, le=1, description="Thumbs are 0 and 1")
    user: str = Field(min_length=1, max_length=200, description="Stored as a pseudonym only")
    reason: str = Field("", max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")


class PromoteRequest(Contract):
    """``POST /v1/adapters/{name}/promote``."""

    model_config = example({"version": "3f9a41c07be2"})
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

    model_config = example({
        "adapters": [
            {
                "name": "food_icons",
                "version": "3f9a41c07be2",
                "base": "emoji",
                "trigger": "icnx",
                "overall": 0.95,
                "taken_down": False,
            }
        ]
    })
    adapters: tuple[Adapter, ...]
