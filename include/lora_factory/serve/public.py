"""Routes for everyone with a key: draw, rate, list; and health, metrics, the page."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi import Path as PathParam
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST

from lora_factory.contracts.serving import (
    Adapter,
    AdapterList,
    FeedbackRequest,
    GenerateRequest,
    GenerateResponse,
    Job,
)
from lora_factory.errors import ServiceUnavailable, SpecError
from lora_factory.serve.drawing import admit, finish, submit
from lora_factory.serve.engine import Drawn, Ticket
from lora_factory.serve.services import REFUSALS, TARGET, MayDraw, MayRate, Wired

LOOK = 0.5  # seconds between looks whether the client is still there
CLOSED = 499  # as nginx logs a client that left
PAGE = Path(__file__).parent / "static" / "index.html"
JobId = Annotated[str, PathParam(pattern=r"^[0-9a-f]{32}$")]
router = APIRouter()


@router.post("/v1/generate", responses=REFUSALS)
async def generate(
    body: GenerateRequest, request: Request, caller: MayDraw, wired: Wired
) -> GenerateResponse:
    """Draw one picture by the live version of an adapter, or by the base alone."""
    started = time.monotonic()
    wish = await admit(body, caller, wired)
    ticket = submit(wish, wired, started + wired.config.timeout)
    return await finish(await _wait(ticket, request, wired.config.timeout), wish, started, wired)


async def _wait(ticket: Ticket, request: Request, timeout: float) -> Drawn:
    """The picture; who left, or waited too long, is not drawn for."""
    future = asyncio.wrap_future(ticket.future)
    # Who has left doesn't hear how it ended, which asyncio would complain of.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    deadline = time.monotonic() + timeout
    try:
        while not future.done():
            await asyncio.wait([future], timeout=LOOK)
            if not future.done() and time.monotonic() > deadline:
                msg = f"no picture within {timeout:.0f} s; ask for fewer steps or try again later"
                raise ServiceUnavailable(msg)
            if not future.done() and await request.is_disconnected():
                raise HTTPException(CLOSED, "the client has left")
        drawn: Drawn = future.result()
        return drawn
    finally:
        ticket.abandon()


@router.post("/v1/jobs", status_code=202, responses=REFUSALS)
async def add_job(body: GenerateRequest, response: Response, caller: MayDraw, wired: Wired) -> Job:
    """Draw a picture that is fetched later; ``Location`` says where."""
    job = await wired.jobs.add(await admit(body, caller, wired), caller.id, wired)
    response.headers["location"] = f"/v1/jobs/{job.id}"
    return job


@router.get("/v1/jobs/{identity}", responses=REFUSALS)
async def job(identity: JobId, caller: MayDraw, wired: Wired) -> Job:
    """How far a job is; its picture for an hour after it was drawn."""
    found = await wired.jobs.get(identity, caller.id)
    if found is None:
        raise HTTPException(404, "no such job of this key; a picture is kept for an hour")
    return found


@router.delete("/v1/jobs/{identity}", status_code=204, responses=REFUSALS)
async def cancel_job(identity: JobId, caller: MayDraw, wired: Wired) -> None:
    """Give a job up, and its picture."""
    if not await wired.jobs.cancel(identity, caller.id):
        raise HTTPException(404, "no such job of this key")


@router.post("/v1/feedback", status_code=201, responses=REFUSALS)
def feedback(body: FeedbackRequest, caller: MayRate, wired: Wired) -> dict[str, str]:
    """Rate a picture, once per user of a key, with the token that came with it."""
    try:
        generation_id = wired.tokens.redeem(body.rating_token)
    except SpecError as err:
        wired.metrics.feedback.labels("refused").inc()
        raise HTTPException(403, str(err)) from err
    # A key's holder answers for the names of its users. Anybody else could invent names: one
    # rating a picture, whoever sends it.
    name = "anybody" if caller.anonymous else f"{caller.id}:{body.user}"
    user = wired.tokens.pseudonym(name)
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
