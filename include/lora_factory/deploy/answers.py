"""What a container that serves one release answers, however the answer came."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from pydantic import ValidationError

from lora_factory.contracts.serving import Failure, GenerateRequest, GenerateResponse
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

ANSWER_TIMEOUT = 900.0  # seconds; an instance that starts loads the base first


def ask(
    url: str, request: GenerateRequest, headers: Mapping[str, str], service: str
) -> GenerateResponse:
    """One picture over HTTP.

    Raises: as :func:`drawn`.
    """
    body = request.model_dump_json(exclude_none=True).encode()
    headers = {"content-type": "application/json", **headers}
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=ANSWER_TIMEOUT)
    except httpx.TransportError as err:
        msg = f"{service} did not answer: {err}; try again later"
        raise ServiceUnavailable(msg) from err
    return drawn(service, answer.status_code, answer.content)


def drawn(service: str, status: int, body: bytes) -> GenerateResponse:
    """A picture, or the error that a status stands for.

    Raises:
        ServiceUnavailable: it is starting or busy.
        ConfigurationError: it refuses who asks.
        ReleaseError: anything else that is no picture.
    """
    if status in {408, 429, 502, 503, 504}:
        msg = f"{service} answered {status}: {_reason(body)}; try again later"
        raise ServiceUnavailable(msg)
    if status in {401, 403}:
        msg = f"{service} refuses access ({status}); give the deployment the right to invoke it"
        raise ConfigurationError(msg)
    if status != 200:
        msg = f"smoke test: {service} answered {status}: {_reason(body)}"
        raise ReleaseError(msg)
    try:
        return GenerateResponse.model_validate_json(body)
    except ValidationError as err:
        msg = f"smoke test: {service} answered no picture: {str(err).splitlines()[0]}"
        raise ReleaseError(msg) from err


def _reason(body: bytes) -> str:
    try:
        return Failure.model_validate_json(body).error
    except ValidationError:
        return body[:200].decode("utf-8", "replace").replace("\n", " ")
