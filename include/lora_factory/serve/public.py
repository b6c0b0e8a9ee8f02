"""Routes for everyone: draw, rate, list, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST

from lora_factory.contracts.registry import Model
from lora_factory.contracts.serving import (
    Adapter,
    AdapterList,
    Failure,
    FeedbackRequest,
    GenerateRequest,
    GenerateResponse,
)
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.errors import ServiceUnavailable, SpecError
from lora_factory.guard.content import check_prompt
from lora_factory.guard.provenance.c2pa import Facts
from lora_factory.guard.provenance.marks import marks_of
from lora_factory.serve.engine import Drawn, Settings, Ticket
from lora_factory.serve.metrics import BASE
from lora_factory.serve.services import TARGET, Services, Wired, services_of
from lora_factory.store.catalog import Generation

if TYPE_CHECKING:
    from PIL.Image import Image

LOOK = 0.5  # seconds between looks whether the client is still there
CLOSED = 499  # as nginx logs a client that left
PAGE = Path(__file__).parent / "static" / "index.html"
router = APIRouter()


@router.post("/v1/generate")
async def generate(body: GenerateRequest, request: Request, wired: Wired) -> GenerateResponse:
    """Draw one picture by the live version of an adapter, or by the base alone."""
    started = time.monotonic()
    _judge(body.prompt, wired)
    admin = wired.is_admin(request)
    model = await asyncio.to_thread(_resolve, body, wired, admin=admin)
    seed = secrets.randbelow(2**32) if body.seed is None else body.seed
    drawn = await _draw(body, model, seed, request)
    if drawn.image is None:
        _refuse(drawn.refused, drawn.rule, wired)
    image = await asyncio.to_thread(_marked, drawn.image, model, wired)
    generation = Generation(
        id=str(uuid.uuid4()),
        name=model.name if model else None,
        version=model.version if model else None,
        prompt_sha256=hashlib.sha256(body.prompt.encode()).hexdigest(),
        seed=seed,
    )
    await asyncio.to_thread(wired.catalog.add_generation, generation)
    ratable = model is not None and model.state == "deployed"
    return GenerateResponse(
        image=image,
        generation_id=generation.id,
        adapter=generation.name,
        version=generation.version,
        seed=seed,
        seconds=round(time.monotonic() - started, 3),
        rating_token=wired.tokens.issue(generation.id) if ratable else None,
        marks=marks_of(drawn.image.size),
    )


def _judge(prompt: str, wired: Services) -> None:
    verdict = check_prompt(prompt)
    if not verdict.allowed:
        _refuse("prompt", verdict.rule, wired)


def _refuse(what: str, rule: str, wired: Services) -> NoReturn:
    """Answer what the guard blocks, counted by rule; the picture is never part of it."""
    wired.metrics.blocks.labels(rule).inc()
    raise HTTPException(422, Failure(error=f"{what}: refused by the content rules", rule=rule))


def _resolve(body: GenerateRequest, wired: Services, *, admin: bool) -> Model | None:
    """The version that shall draw; None: the base."""
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


async def _draw(body: GenerateRequest, model: Model | None, seed: int, request: Request) -> Drawn:
    wired = services_of(request)
    base, timeout = wired.config.base, wired.config.timeout
    settings = Settings(
        adapter=wired.folder.find(model.sha256) if model else None,
        steps=body.steps or base.steps,
        guidance=body.guidance or base.guidance,
        strength=body.strength if model else 1.0,
    )
    wanted = GenerationRequest(prompt=body.prompt, seed=seed)
    ticket = wired.engine.draw(wanted, settings, time.monotonic() + timeout)
    drawn = await _wait(ticket, request, timeout)
    wired.metrics.waiting.observe(drawn.waited)
    if drawn.refused != "prompt":
        wired.metrics.generations.labels(model.name if model else BASE).inc()
        wired.metrics.drawing.observe(drawn.seconds)
    return drawn


async def _wait(ticket: Ticket, request: Request, timeout: float) -> Drawn:
    """The picture; who left, or waited too long, is not drawn for."""
    future = asyncio.wrap_future(ticket.future)
    deadline = time.monotonic() + timeout
    try:
        while not future.done():
            await asyncio.wait([future], timeout=LOOK)
            if time.monotonic() > deadline:
                msg = f"no picture within {timeout:.0f} s; ask for fewer steps or try again later"
                raise ServiceUnavailable(msg)
            if not future.done() and await request.is_disconnected():
                raise HTTPException(CLOSED, "the client has left")
        drawn: Drawn = future.result()
        return drawn
    finally:
        ticket.abandon()


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


@router.post("/v1/feedback", status_code=201)
def feedback(body: FeedbackRequest, wired: Wired) -> dict[str, str]:
    """Rate a picture, once per user, with the token that came with it."""
    try:
        generation_id = wired.tokens.redeem(body.rating_token)
    except SpecError as err:
        wired.metrics.feedback.labels("refused").inc()
        raise HTTPException(403, str(err)) from err
    user = wired.tokens.pseudonym(body.user)
    try:
        kept = wired.catalog.add_feedback(generation_id, user, body.rating, body.reason)
    except SpecError as err:
        wired.metrics.feedback.labels("refused").inc()
        raise HTTPException(404, str(err)) from err
    wired.metrics.feedback.labels("kept" if kept else "repeated").inc()
    if not kept:
        raise HTTPException(409, "this user has rated this picture already")
    return {"generation_id": generation_id}


@router.get("/v1/adapters")
def adapters(wired: Wired) -> AdapterList:
    """The live version of every adapter."""
    return AdapterList(
        adapters=tuple(
            Adapter(
                name=model.name,
                version=model.version,
                base=model.base,
                trigger=model.trigger,
                overall=model.overall,
                taken_down=model.taken_down is not None,
            )
            for model in wired.catalog.live_models(TARGET)
        )
    )


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(wired: Wired) -> dict[str, str]:
    """The engine can draw and the catalog answers; else 503. Names the key of the marks."""
    wired.engine.check_ready()
    wired.catalog.check()
    return {"status": "ready", "image_key": wired.config.marker.key_note}


@router.get("/metrics", include_in_schema=False)
async def metrics(wired: Wired) -> Response:
    """Prometheus' text format."""
    return Response(wired.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """A page to try a prompt: base beside LoRA, thumbs up or down."""
    return FileResponse(PAGE)
