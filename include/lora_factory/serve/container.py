"""``python -m lora_factory.serve.container``: one release over HTTP, as managed services run it.

Cloud Run and Azure ML ask ``POST /v1/generate``; SageMaker starts the image with the argument
``serve`` and asks ``GET /ping`` and ``POST /invocations`` on port 8080. Who may ask is the
service's own affair (IAM, keys): this app must only be reachable through it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request, Response

from lora_factory.contracts.serving import Failure
from lora_factory.contracts.settings import Settings
from lora_factory.errors import FactoryError, ServiceUnavailable
from lora_factory.serve.release import MAX_BODY, open_release

if TYPE_CHECKING:
    from lora_factory.serve.release import ReleaseServer

log = logging.getLogger("lora_factory.serve")
JSON = "application/json"
USUAL_SECONDS = 600.0


def create_app(server: ReleaseServer, seconds: float = USUAL_SECONDS) -> FastAPI:
    """The app; ``seconds``: how long a picture may take."""
    app = FastAPI(title="LoRA Factory: one release", docs_url=None, redoc_url=None)
    limits = server.engine.limits  # a thread for each that may wait, and one more to be refused
    threads = ThreadPoolExecutor(limits.queue + limits.batch + 1, "answer")

    async def generate(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            failure = Failure(error=f"body: more than {MAX_BODY} bytes")
            return Response(failure.model_dump_json(), 413, media_type=JSON)
        loop = asyncio.get_running_loop()
        status, answer = await loop.run_in_executor(threads, server.answer, body, seconds)
        headers = {"retry-after": "5"} if status in {429, 503} else None
        return Response(answer.model_dump_json(), status, headers, JSON)

    async def ready() -> Response:
        try:
            server.engine.check_ready()
        except ServiceUnavailable as err:
            return Response(Failure(error=str(err)).model_dump_json(), 503, media_type=JSON)
        return Response('{"status": "ready"}', media_type=JSON)

    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    for path in ("/v1/generate", "/invocations"):
        app.add_api_route(path, generate, methods=["POST"])
    for path in ("/readyz", "/ping"):
        app.add_api_route(path, ready, methods=["GET"])
    app.add_api_route("/healthz", alive, methods=["GET"])
    return app


async def _body(request: Request) -> bytes | None:
    """The body; None: it is longer than any request."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return body


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lora_factory.serve.container")
    parser.add_argument("command", nargs="?", choices=["serve"], help="as SageMaker says it")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    port = int(os.environ.get("PORT", "8080"))
    parser.add_argument("--port", type=int, default=port, help="default: $PORT, or 8080")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        server = open_release(Settings.from_environment())
    except FactoryError as err:
        log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
        return 1
    log.info("serving %s %s", server.note.name, server.note.version)
    uvicorn.run(
        create_app(server),
        host=args.host,
        port=args.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=60,
    )
    server.engine.stop(drain=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
