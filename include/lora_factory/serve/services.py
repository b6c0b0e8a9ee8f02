"""What the routes share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from lora_factory.contracts.serving import Failure
from lora_factory.guard.provenance.marks import ImageMarker
from lora_factory.models.profiles import BaseEntry
from lora_factory.serve.access import Access, Caller, Denied
from lora_factory.serve.adapters import AdapterFolder
from lora_factory.serve.engine import Engine
from lora_factory.serve.keys import RatingTokens
from lora_factory.serve.metrics import Metrics
from lora_factory.store.catalog import Catalog

if TYPE_CHECKING:
    from lora_factory.contracts.registry import Scope
    from lora_factory.serve.jobs import Jobs

TARGET = "local"  # this app's name among the catalog's deployment targets
BEARER = HTTPBearer(
    auto_error=False, description="An API key; the operator makes them (`apikey add`)"
)
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "No key, or one that is unknown or revoked"},
    403: {"model": Failure, "description": "The key lacks the scope, or the token is forged"},
    404: {"model": Failure, "description": "No such adapter, version or job"},
    422: {"model": Failure, "description": "One line on what is wrong with the request"},
    429: {
        "model": Failure,
        "description": "The key asks too often, or too many requests wait",
        "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}},
    },
    503: {"model": Failure, "description": "Not now; try again later"},
}
"""What routes answer to requests that they refuse, for the OpenAPI description."""


@dataclass(frozen=True)
class ServeConfig:
    """What an app is made of. ``token`` is a key with all rights; empty: there is none."""

    data: Path
    base: BaseEntry
    catalog: Catalog
    marker: ImageMarker
    token: str = field(default="", repr=False)
    public: int = 0
    """Requests a minute without a key."""
    drain: float = 60.0
    """Seconds for what was accepted, once the app is asked to stop."""
    max_upload: int = 2 * 1024**3
    timeout: float = 120.0


@dataclass(frozen=True)
class Services:
    """What an app holds (``app.state.services``)."""

    config: ServeConfig
    engine: Engine
    folder: AdapterFolder
    tokens: RatingTokens
    metrics: Metrics
    access: Access
    jobs: Jobs
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def catalog(self) -> Catalog:
        """The registry of models and ratings."""
        return self.config.catalog


def services_of(request: Request) -> Services:
    """The services of the app that a request reached."""
    found: Services = request.app.state.services
    return found


Wired = Annotated[Services, Depends(services_of)]


class Allowed:
    """Dependency: the caller, if a scope and the caller's rate allow the request."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        request: Request,
        wired: Wired,
        _shown: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)] = None,
    ) -> Caller:
        """Raise an HTTPException with status 401, 403 or 429, or return the caller."""
        address = request.client.host if request.client else ""
        try:
            caller = wired.access.caller(request.headers.get("authorization"), address)
            wired.access.admit(caller, self._scope)
        except Denied as err:
            headers = {"www-authenticate": "Bearer"} if err.status == 401 else {}
            if err.retry_after is not None:
                headers["retry-after"] = str(err.retry_after)
            raise HTTPException(err.status, str(err), headers) from err
        request.state.caller = caller.id
        return caller


MayDraw = Annotated[Caller, Depends(Allowed("generate"))]
MayRate = Annotated[Caller, Depends(Allowed("feedback"))]
