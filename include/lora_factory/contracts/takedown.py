"""A takedown: one item that must go, and everything that was made with it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract

Holder = Literal["raw", "clean", "dataset", "lora", "evaluation", "release"]


class Find(Contract):
    """An artifact that contains an item, or was made from one that does."""

    kind: Holder
    key: str
    uri: str = Field(description="Manifest URI")
    why: str = Field(description="For a person: contains 2 images, trained on dataset …")


class ModelFind(Contract):
    """A model in the catalog that was trained with an item."""

    name: str
    version: str
    state: str
    lora: str = Field(description="Manifest URI")
    live_on: tuple[str, ...] = Field((), description="Targets that serve it now")


class Reach(Contract):
    """Where an item is."""

    item: str = Field(description="URL of an image or a page, or sha256 of an image")
    images: tuple[str, ...] = Field(description="sha256 of the images meant, sorted")
    artifacts: tuple[Find, ...]
    models: tuple[ModelFind, ...] = ()
    catalog: bool = Field(description="A catalog was asked; without one models are not known")
    unreadable: tuple[str, ...] = Field((), description="Manifest URIs that could not be searched")
    marked: bool = False


class Takedown(Contract):
    """A row of ``takedowns``."""

    item: str
    reason: str
    at: datetime
