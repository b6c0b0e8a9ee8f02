"""Target ``local``: the serving app of this deployment, over its HTTP API."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from pydantic import ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import Deployment
from lora_factory.contracts.serving import (
    AdapterList,
    Failure,
    GenerateRequest,
    GenerateResponse,
    PromoteRequest,
)
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.target import Plan, Promotion, Release, Smoke
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from lora_factory.guard.provenance.marks import WATERMARK, marks_of
from lora_factory.imaging.decode import ImageRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Contract)
TIMEOUT = 180.0  # seconds for one answer; a picture may take the app two minutes
PATIENCE = 60.0  # seconds an app that is starting or busy is asked again
MIN_CONTRAST = 1.0  # a black picture, or one of a single colour, has less
MIN_DIFFERENCE = 0.1  # rounding alone moves a picture by less
MARKED_DIFFERENCE = 5.0  # the same of two watermarks, whose ids differ: up to 4


class LocalTarget:
    """See :class:`lora_factory.deploy.target.Target`.

    Args:
        settings: ``serve_url`` and ``serve_token`` are used.
        check_stop: called while waiting; raises to stop.
        patience: seconds to wait for an app that is starting or busy.

    Raises:
        ConfigurationError: either is missing.
    """

    name = "local"

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
                "target local needs LORA_FACTORY_SERVE_URL (http://…) and LORA_FACTORY_SERVE_TOKEN"
            )
            raise ConfigurationError(msg)
        self._check_stop, self._patience = check_stop, patience
        self._client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(TIMEOUT, connect=5.0),
        )

    def plan(self, release: Release) -> Plan:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._call("GET", "/readyz")
        listed = self._read(AdapterList, self._call("GET", "/v1/adapters"))
        live = {adapter.name: adapter.version for adapter in listed.adapters}
        return Plan(live=live.get(release.model.name))

    def apply(self, release: Release) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        with release.file.open("rb") as stream:
            self._call(
                "POST",
                "/v1/adapters",
                data={"metadata": release.model.model_dump_json()},
                files={"lora": ("lora.safetensors", stream)},
            )

    def smoke(self, release: Release) -> Smoke:
        """See :class:`lora_factory.deploy.target.Target`."""
        import numpy as np

        request = GenerateRequest(prompt=release.prompt, seed=release.seed)
        base = self._picture(request)
        started = time.monotonic()
        key = {"adapter": release.model.name, "version": release.model.version}
        image = self._picture(request.model_copy(update=key))
        seconds = time.monotonic() - started
        if image.size != base.size:
            msg = f"smoke test: a picture of {image.size} pixels, the base draws {base.size}"
            raise ReleaseError(msg)
        pixels, before = np.asarray(image, float), np.asarray(base, float)
        contrast = float(pixels.std())
        difference = float(np.abs(pixels - before).mean())
        if contrast < MIN_CONTRAST:
            msg = f"smoke test: a blank picture (contrast {contrast:.2f} of 128)"
            raise ReleaseError(msg)
        marked = WATERMARK in marks_of(image.size)
        if difference < (MARKED_DIFFERENCE if marked else MIN_DIFFERENCE):
            msg = f"smoke test: the base's own picture (difference {difference:.3f} of 255)"
            raise ReleaseError(msg)
        return Smoke(seconds=seconds, contrast=contrast, difference=difference)

    def promote(self, release: Release) -> Promotion:
        """See :class:`lora_factory.deploy.target.Target`."""
        body = PromoteRequest(version=release.model.version).model_dump()
        answer = self._call("POST", f"/v1/adapters/{release.model.name}/promote", json=body)
        live = self._read(Deployment, answer)
        return Promotion(endpoint=f"{self.url}/v1/generate", previous=live.previous)

    def rollback(self, release: Release, plan: Plan) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        name, version = release.model.name, release.model.version
        if plan.live == version:  # it was live already, and has gone bad
            self._call("POST", f"/v1/adapters/{name}/rollback")
        else:
            self._call("DELETE", f"/v1/adapters/{name}", params={"version": version})

    def _picture(self, request: GenerateRequest) -> Image:
        body = request.model_dump(exclude_none=True)
        drawn = self._read(GenerateResponse, self._call("POST", "/v1/generate", json=body))
        try:
            return decode(base64.b64decode(drawn.image, validate=True))
        except (binascii.Error, ImageRejected) as err:
            msg = f"smoke test: no picture in the answer: {err}"
            raise ReleaseError(msg) from err

    def _read(self, contract: type[T], answer: httpx.Response) -> T:
        try:
            return contract.model_validate_json(answer.content)
        except ValidationError as err:
            msg = f"{answer.url} is no serving app of this version; correct LORA_FACTORY_SERVE_URL"
            raise ConfigurationError(msg) from err

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request; asked again while the app is starting or busy."""
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
