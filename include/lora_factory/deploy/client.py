"""The serving app's HTTP API, as the target ``local`` and the command ``adapters`` call it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.serving import Failure
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Contract)
TIMEOUT = 180.0  # seconds for one answer; a picture may take the app two minutes
PATIENCE = 60.0  # seconds an app that is starting or busy is asked again


class ServingApp:
    """Calls the serving app with the operator's key.

    Args:
        settings: ``serve_url`` and ``serve_token`` are used.
        check_stop: called while waiting; raises to stop.
        patience: seconds to wait for an app that is starting or busy.

    Raises:
        ConfigurationError: either is missing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        check_stop: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self.url = settings.serve_url.rstrip("/")
        token = settings.serve_token.get_secret_value()
        if not self.url.startswith(("http://", "https://")) or not token:
            msg = (
                "the serving app needs LORA_FACTORY_SERVE_URL (http://…) and "
                "LORA_FACTORY_SERVE_TOKEN"
            )
            raise ConfigurationError(msg)
        self._check_stop, self._patience = check_stop, patience
        self._client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(TIMEOUT, connect=5.0),
        )

    def call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request; asked again while the app is starting or busy.

        Raises:
            ServiceUnavailable: it did not answer, or stayed busy.
            ConfigurationError: it refuses the key.
            ReleaseError: it refuses the request.
        """
        deadline = time.monotonic() + self._patience
        while True:
            self._check_stop()
            try:
                answer = self._client.request(method, path, **content)
            except httpx.TransportError as err:
                msg = f"serving app {self.url} did not answer: {err}; is it up?"
                raise ServiceUnavailable(msg) from err
            if answer.status_code not in {429, 503} or time.monotonic() >= deadline:
                return _checked(answer, f"{method} {path}", self.url)
            log.info("serving app: %s; asking again", _reason(answer))
            time.sleep(min(1.0, self._patience))

    def read(self, contract: type[T], answer: httpx.Response) -> T:
        """An answer's body.

        Raises:
            ConfigurationError: it is of another shape.
        """
        try:
            return contract.model_validate_json(answer.content)
        except ValidationError as err:
            msg = f"{answer.url} is no serving app of this version; correct LORA_FACTORY_SERVE_URL"
            raise ConfigurationError(msg) from err


def _checked(answer: httpx.Response, what: str, url: str) -> httpx.Response:
    """The answer, or the error that its status stands for."""
    if answer.is_success:
        return answer
    status, reason = answer.status_code, _reason(answer)
    if status in {429, 502, 503, 504}:
        msg = f"serving app {url}: {what}: {reason}"
        raise ServiceUnavailable(msg)
    if status in {401, 403}:
        msg = f"serving app {url} refuses the key: {reason}; correct LORA_FACTORY_SERVE_TOKEN"
        raise ConfigurationError(msg)
    msg = f"serving app {url}: {what}: {status}: {reason}"
    raise ReleaseError(msg)


def _reason(answer: httpx.Response) -> str:
    try:
        return Failure.model_validate_json(answer.content).error
    except ValidationError:
        return f"{answer.status_code} {answer.reason_phrase}, is it the serving app?"
