"""What the routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from lora_factory.guard.provenance.marks import ImageMarker
from lora_factory.models.profiles import BaseEntry
from lora_factory.serve.adapters import AdapterFolder
from lora_factory.serve.engine import Engine
from lora_factory.serve.keys import RatingTokens, is_admin
from lora_factory.serve.metrics import Metrics
from lora_factory.store.catalog import Catalog

TARGET = "local"  # this app's name among the catalog's deployment targets


@dataclass(frozen=True)
class ServeConfig:
    """What an app is made of. ``token`` is the administrator's key; empty: no administrator."""

    data: Path
    base: BaseEntry
    catalog: Catalog
    marker: ImageMarker
    token: str = field(default="", repr=False)
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

    @property
    def catalog(self) -> Catalog:
        """The registry of models and ratings."""
        return self.config.catalog

    def is_admin(self, request: Request) -> bool:
        """Whether a request carries the administrator's key."""
        return is_admin(request.headers.get("authorization"), self.config.token)


def services_of(request: Request) -> Services:
    """The services of the app that a request reached."""
    found: Services = request.app.state.services
    return found


Wired = Annotated[Services, Depends(services_of)]
