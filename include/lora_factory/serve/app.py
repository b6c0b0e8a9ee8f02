"""The serving app: FastAPI over one engine, one catalog and one folder of LoRA files."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.staticfiles import StaticFiles

from lora_factory import __version__
from lora_factory.contracts.serving import Failure
from lora_factory.errors import FactoryError, SpecError, TransientError
from lora_factory.serve import admin, public
from lora_factory.serve.access import Access
from lora_factory.serve.adapters import AdapterFolder
from lora_factory.serve.engine import Engine
from lora_factory.serve.jobs import Jobs
from lora_factory.serve.keys import RatingTokens, load_key
from lora_factory.serve.metrics import Metrics
from lora_factory.serve.services import ServeConfig, Services

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
access = logging.getLogger("lora_factory.serve.requests")
STATIC = Path(__file__).parent / "static"
JSON_BYTES = 64 * 1024
RETRY_AFTER = "5"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def create_app(config: ServeConfig, engine: Engine) -> FastAPI:
    """Wire an app; the engine starts and stops with it.

    Raises:
        ServiceUnavailable, ConfigurationError: the catalog can't be used.
        ConfigurationError: the data folder can't be used.
    """
    config.catalog.check()
    folder = AdapterFolder(config.data / "adapters")
    services = Services(
        config,
        engine,
        folder,
        tokens=RatingTokens(load_key(config.data)),
        metrics=Metrics(engine),
        access=Access(config.catalog, config.token, config.public),
        jobs=Jobs(config.data / "jobs"),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        resumed = asyncio.create_task(services.jobs.resume(services))
        yield
        services.stopping.set()
        resumed.cancel()
        await asyncio.to_thread(engine.stop, config.drain)
        await services.jobs.settle()

    app = FastAPI(
        title="LoRA Factory serving",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    app.include_router(public.router)
    app.include_router(admin.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(FactoryError, _failed)
    app.add_exception_handler(queue.Full, _busy)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(BodyLimit, upload=config.max_upload)
    app.add_middleware(Observed, metrics=services.metrics)
    if not config.token:
        log.warning("LORA_FACTORY_SERVE_TOKEN is not set: only keys with scope admin can publish")
    return app


# -- answers to what goes wrong, all of the shape Failure


def _answer(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = Failure(error=error).model_dump(exclude_none=True)
    return JSONResponse(body, status_code=status, headers=headers)


def _invalid(_request: Request, err: Exception) -> JSONResponse:
    """Name the first bad field, never what was in it."""
    first = err.errors()[0] if isinstance(err, RequestValidationError) else {"loc": (), "msg": ""}
    where = ".".join(str(part) for part in first["loc"] if part not in {"body", "path", "query"})
    return _answer(422, f"{where or 'body'}: {first['msg']}")


def _refused(_request: Request, err: Exception) -> JSONResponse:
    detail: Any = getattr(err, "detail", "bad request")
    failure = detail if isinstance(detail, Failure) else Failure(error=str(detail))
    return JSONResponse(
        failure.model_dump(exclude_none=True),
        status_code=getattr(err, "status_code", 400),
        headers=getattr(err, "headers", None),
    )


def _failed(_request: Request, err: Exception) -> JSONResponse:
    if isinstance(err, TransientError):
        return _answer(503, str(err), {"retry-after": RETRY_AFTER})
    if isinstance(err, SpecError):
        return _answer(409, str(err))
    log.error("%s: %s", type(err).__name__, err)
    return _answer(500, str(err))


def _busy(_request: Request, _err: Exception) -> JSONResponse:
    return _answer(429, "too many requests wait; try again later", {"retry-after": RETRY_AFTER})


def _broken(_request: Request, _err: Exception) -> JSONResponse:
    return _answer(500, "internal error; the server's log says more")


# -- around every request


class BodyLimit:
    """Small bodies everywhere, a large one where a LoRA is uploaded."""

    def __init__(self, app: ASGIApp, upload: int) -> None:
        self._small = RequestBodyLimitMiddleware(app, max_body_size=JSON_BYTES)
        self._large = RequestBodyLimitMiddleware(app, max_body_size=upload)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the limit of its path."""
        large = scope["type"] == "http" and scope["path"] == admin.UPLOAD_PATH
        await (self._large if large else self._small)(scope, receive, send)


class Observed:
    """Counts, times and logs requests by route, and adds the security headers.

    The log has one line of JSON a request: who, what, how long; no prompt, no body, no query.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, watching the answer's status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - started
            self._metrics.requests.labels(route, _method(scope), str(status)).inc()
            self._metrics.latency.labels(route).observe(seconds)
            line = {
                "route": route,
                "method": _method(scope),
                "status": status,
                "seconds": round(seconds, 3),
                "caller": scope.get("state", {}).get("caller", ""),
            }
            access.info("%s", json.dumps(line))


def _method(scope: Scope) -> str:
    """Any client may invent methods; a label takes known ones only."""
    method = str(scope["method"])
    return method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"
