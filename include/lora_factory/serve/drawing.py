"""From a request's body to a marked picture: what drawing at once and jobs share."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from fastapi import HTTPException

from lora_factory.contracts.registry import Model
from lora_factory.contracts.serving import Failure, GenerateRequest, GenerateResponse
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.guard.content import check_prompt
from lora_factory.guard.provenance.c2pa import Facts
from lora_factory.guard.provenance.marks import marks_of
from lora_factory.serve.access import Caller
from lora_factory.serve.engine import Drawn, Settings, Ticket
from lora_factory.serve.services import TARGET, Services
from lora_factory.store.catalog import Generation

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Wish:
    """A request that may be drawn."""

    body: GenerateRequest
    model: Model | None
    """The version that shall draw; None: the base."""
    seed: int


async def admit(body: GenerateRequest, caller: Caller, wired: Services) -> Wish:
    """Check prompt, adapter and version; choose a seed where none is given.

    Raises:
        HTTPException: 404 no such adapter, 403 a version for administrators, 422 a refused prompt.
    """
    verdict = check_prompt(body.prompt)
    if not verdict.allowed:
        refuse("prompt", verdict.rule, wired)
    model = await asyncio.to_thread(_resolve, body, wired, admin=caller.may("admin"))
    return Wish(body, model, secrets.randbelow(2**32) if body.seed is None else body.seed)


def submit(wish: Wish, wired: Services, deadline: float) -> Ticket:
    """Queue it; ``deadline`` on the clock of ``time.monotonic``.

    Raises: as :meth:`lora_factory.serve.engine.Engine.draw`.
    """
    body, model, base = wish.body, wish.model, wired.config.base
    settings = Settings(
        adapter=wired.folder.find(model.sha256) if model else None,
        steps=body.steps or base.steps,
        guidance=body.guidance or base.guidance,
        strength=body.strength if model else 1.0,
    )
    wanted = GenerationRequest(prompt=body.prompt, seed=wish.seed)
    return wired.engine.draw(wanted, settings, deadline)


async def finish(drawn: Drawn, wish: Wish, started: float, wired: Services) -> GenerateResponse:
    """Mark and register what was drawn; ``started``: when it was asked for.

    Raises:
        HTTPException: 422, a guard refused prompt or picture.
    """
    wired.metrics.drew(drawn, wish.model.name if wish.model else None)
    if drawn.image is None:
        refuse(drawn.refused, drawn.rule, wired)
    model = wish.model
    image = await asyncio.to_thread(_marked, drawn.image, model, wired)
    generation = Generation(
        id=str(uuid.uuid4()),
        name=model.name if model else None,
        version=model.version if model else None,
        prompt_sha256=hashlib.sha256(wish.body.prompt.encode()).hexdigest(),
        seed=wish.seed,
    )
    await asyncio.to_thread(wired.catalog.add_generation, generation)
    ratable = model is not None and model.state == "deployed"
    return GenerateResponse(
        image=image,
        generation_id=generation.id,
        adapter=generation.name,
        version=generation.version,
        seed=wish.seed,
        seconds=round(time.monotonic() - started, 3),
        rating_token=wired.tokens.issue(generation.id) if ratable else None,
        marks=marks_of(drawn.image.size),
    )


def refuse(what: str, rule: str, wired: Services) -> NoReturn:
    """Answer what the guard blocks, counted by rule; the picture is never part of it."""
    wired.metrics.blocks.labels(rule).inc()
    failure = Failure(error=f"{what}: refused by the content rules", rule=rule)
    raise HTTPException(422, failure)


def _resolve(body: GenerateRequest, wired: Services, *, admin: bool) -> Model | None:
    if body.adapter is None:
        if body.version is not None:
            raise HTTPException(422, "version: needs an adapter")
        return None
    version = body.version
    if version is None:
        live = wired.catalog.live(body.adapter, TARGET)
        version = live.version if live else None
    model = wired.catalog.model(body.adapter, version) if version else None
    if body.version is not None and not admin and (model is None or model.state != "deployed"):
        raise HTTPException(403, "version: only an administrator may draw with it")
    if model is None or model.state == "retired":
        raise HTTPException(404, f"no adapter {body.adapter}; GET /v1/adapters lists them")
    return model


def _marked(image: Image, model: Model | None, wired: Services) -> str:
    """The picture as base64 of a PNG with its marks."""
    base = wired.config.base
    facts = Facts(
        base=base.name,
        base_revision=base.resolve_revision(),
        adapter=model.name if model else None,
        version=model.version if model else None,
        lora_sha256=model.sha256 if model else None,
    )
    started = time.monotonic()
    data = wired.config.marker.mark_image(image, facts)
    wired.metrics.marking.observe(time.monotonic() - started)
    return base64.b64encode(data).decode()
