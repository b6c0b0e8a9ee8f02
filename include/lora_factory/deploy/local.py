"""Target ``local``: the serving app of this deployment, over its HTTP API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_factory.contracts.registry import Deployment
from lora_factory.contracts.serving import (
    AdapterList,
    GenerateRequest,
    GenerateResponse,
    PromoteRequest,
)
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.client import PATIENCE, ServingApp
from lora_factory.deploy.pictures import compare, picture
from lora_factory.deploy.target import Plan, Promotion, Release, Smoke

if TYPE_CHECKING:
    from PIL.Image import Image


class LocalTarget:
    """See :class:`lora_factory.deploy.target.Target`.

    Arguments and errors: :class:`lora_factory.deploy.client.ServingApp`.
    """

    name = "local"

    def __init__(
        self,
        settings: Settings,
        *,
        check_stop: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self._app = ServingApp(settings, check_stop=check_stop, patience=patience)
        self.url = self._app.url

    def plan(self, release: Release) -> Plan:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._app.call("GET", "/readyz")
        listed = self._app.read(AdapterList, self._app.call("GET", "/v1/adapters"))
        live = {adapter.name: adapter.version for adapter in listed.adapters}
        name, version = release.model.name, release.model.version
        steps = (
            *(() if live.get(name) == version else (f"send {version} to {self.url}",)),
            "draw a picture with it and one with the base, compare them",
            f"make it what users of {name} get",
        )
        return Plan(live=live.get(name), steps=steps)

    def apply(self, release: Release) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        with release.file.open("rb") as stream:
            self._app.call(
                "POST",
                "/v1/adapters",
                data={"metadata": release.model.model_dump_json()},
                files={"lora": ("lora.safetensors", stream)},
            )

    def smoke(self, release: Release) -> Smoke:
        """See :class:`lora_factory.deploy.target.Target`."""
        request = GenerateRequest(prompt=release.prompt, seed=release.seed)
        base = self._picture(request)
        started = time.monotonic()
        key = {"adapter": release.model.name, "version": release.model.version}
        image = self._picture(request.model_copy(update=key))
        return compare(image, base, time.monotonic() - started)

    def promote(self, release: Release) -> Promotion:
        """See :class:`lora_factory.deploy.target.Target`."""
        body = PromoteRequest(version=release.model.version).model_dump()
        answer = self._app.call("POST", f"/v1/adapters/{release.model.name}/promote", json=body)
        live = self._app.read(Deployment, answer)
        return Promotion(endpoint=f"{self.url}/v1/generate", previous=live.previous)

    def rollback(self, release: Release, plan: Plan) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        name, version = release.model.name, release.model.version
        if plan.live == version:  # it was live already, and has gone bad
            self._app.call("POST", f"/v1/adapters/{name}/rollback")
        else:
            self._app.call("DELETE", f"/v1/adapters/{name}", params={"version": version})

    def _picture(self, request: GenerateRequest) -> Image:
        body = request.model_dump(exclude_none=True)
        answer = self._app.call("POST", "/v1/generate", json=body)
        return picture(self._app.read(GenerateResponse, answer))
