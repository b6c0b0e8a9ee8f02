"""AWS Lambda's handler: ``lora_factory.serve.lambda_handler.handler``.

Behind a function URL (payload format 2.0)::

    POST /v1/generate     a picture in the answer
    POST /v1/jobs         202 at once; the picture is drawn by an invocation of its own
    GET  /v1/jobs/{id}    how far it is

A job's request and answer are objects beside the release, ``<adapter>/jobs/<id>.request.json``
and ``.answer.json``; the client gets a presigned URL of the latter. An invocation that fails is
repeated by Lambda, an answer that is there is not drawn again.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import logging
import re
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.base import Contract
from lora_factory.contracts.cloud import CloudJob
from lora_factory.contracts.serving import Failure
from lora_factory.contracts.settings import Settings
from lora_factory.errors import FactoryError, ServiceUnavailable
from lora_factory.serve.release import MAX_BODY, Answer, ReleaseServer, open_release
from lora_factory.store.buckets import open_bucket

if TYPE_CHECKING:
    from obstore.store import S3Store

log = logging.getLogger(__name__)
MARGIN = 5.0  # seconds that an answer needs after the drawing
KEPT = timedelta(hours=1)
JOB = re.compile(r"/v1/jobs/([0-9a-f]{32})")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """One invocation: a request of a function URL, or a job of this function's own."""
    try:
        if "job" in event:
            return _work(str(event["job"]), context)
        http = event.get("requestContext", {}).get("http", {})
        status, body = _route(
            str(http.get("method", "")), str(http.get("path", "")), event, context
        )
    except ServiceUnavailable as err:
        if "job" in event:
            raise  # Lambda invokes it again
        status, body = 503, Failure(error=str(err))
    except FactoryError as err:
        log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
        status, body = 500, Failure(error=str(err))
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": body.model_dump_json(),
        "isBase64Encoded": False,
    }


@functools.cache
def server() -> ReleaseServer:
    """The release; opened by the first invocation that a container gets."""
    return open_release(Settings.from_environment())


@functools.cache
def jobs() -> S3Store:
    """Where jobs lie: ``<adapter>/jobs`` in the releases' bucket."""
    store: Any = open_bucket(
        server().uri.rsplit("/", 2)[0] + "/jobs", Settings.from_environment().aws
    )
    return store  # type: ignore[no-any-return]


def _route(method: str, path: str, event: dict[str, Any], context: Any) -> Answer:
    known = JOB.fullmatch(path)
    if (method, path) == ("POST", "/v1/generate"):
        return server().answer(_body(event), _seconds(context))
    if (method, path) == ("POST", "/v1/jobs"):
        return _add(_body(event), context)
    if method == "GET" and known:
        return _look(known[1])
    if (method, path) == ("GET", "/healthz"):
        return 200, CloudHealth(status="ok", version=server().note.version)
    return 404, Failure(error="POST /v1/generate, POST /v1/jobs or GET /v1/jobs/{id}")


class CloudHealth(Contract):
    """``GET /healthz``."""

    status: str
    version: str


def _add(body: bytes, context: Any) -> Answer:
    """Keep a request and have this function invoked for it."""
    if len(body) > MAX_BODY:
        return 413, Failure(error=f"body: more than {MAX_BODY} bytes")
    identity = uuid.uuid4().hex
    jobs().put(f"{identity}.request.json", body)
    invoke_later(context.invoked_function_arn, {"job": identity})
    return 202, _job(identity, "waiting")


def invoke_later(function: str, event: dict[str, str]) -> None:
    """Queue an invocation; Lambda repeats it twice where it fails."""
    from boto3 import client

    payload = json.dumps(event).encode()
    client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=payload)


def _work(identity: str, context: Any) -> dict[str, Any]:
    store, answer = jobs(), f"{identity}.answer.json"
    if _read(answer) is not None:
        return {"job": identity, "state": "done"}
    request = _read(f"{identity}.request.json")
    if request is None:
        log.warning("job %s has no request", identity)
        return {"job": identity, "state": "failed"}
    status, body = server().answer(request, _seconds(context))
    if status in {429, 503}:
        msg = f"job {identity}: {body.model_dump_json()}"
        raise ServiceUnavailable(msg)
    store.put(answer, body.model_dump_json().encode())
    return {"job": identity, "state": "done" if status == 200 else "failed"}


def _look(identity: str) -> Answer:
    found = _read(f"{identity}.answer.json")
    if found is None and _read(f"{identity}.request.json") is None:
        return 404, Failure(error="no such job")
    if found is None:
        return 200, _job(identity, "waiting")
    return 200, _job(identity, "failed" if b'"error"' in found[:20] else "done")


def _job(identity: str, state: Any) -> CloudJob:
    import obstore

    url = obstore.sign(jobs(), "GET", f"{identity}.answer.json", KEPT)
    return CloudJob(id=identity, state=state, url=url)


def _read(path: str) -> bytes | None:
    from obstore.exceptions import BaseError

    try:
        return bytes(jobs().get(path).bytes())
    except FileNotFoundError:
        return None
    except BaseError as err:
        msg = "no answer from the bucket of jobs; try again later"
        raise ServiceUnavailable(msg) from err


def _body(event: dict[str, Any]) -> bytes:
    text = str(event.get("body") or "")
    if not event.get("isBase64Encoded"):
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""  # which is no request, and is answered so


def _seconds(context: Any) -> float:
    return max(1.0, float(context.get_remaining_time_in_millis()) / 1000 - MARGIN)
