"""What a frontier hands out: pages and images to fetch, as JSON and never as a pickle."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter

from lora_factory.contracts.base import Contract
from lora_factory.crawl.extract import ImageRef

Kind = Literal["page", "image"]
KINDS: tuple[Kind, ...] = ("page", "image")


class PageTask(Contract):
    """A page to fetch. ``listing``: it names pages or images, and is judged by its source.

    ``depth``: links between it and a seed.
    """

    kind: Literal["page"] = "page"
    url: str
    seed: bool = False
    listing: bool = False
    depth: int = 0


class ShownImage(Contract):
    """Where an image is shown."""

    page_url: str
    page_title: str
    topics: dict[str, float]


class ImageTask(Contract):
    """An image to fetch, with what its page says about it."""

    kind: Literal["image"] = "image"
    ref: ImageRef
    shown: ShownImage

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.ref.url


Task = PageTask | ImageTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


class Scored(Contract):
    """A task and how much it promises: among hosts that may be asked, the best goes first."""

    task: Task = Field(discriminator="kind")
    score: float = 0.0


class Lease(Contract):
    """A task handed to one worker for a time. ``token`` is what settles it."""

    token: str
    task: Task = Field(discriminator="kind")
    tries: int = Field(1, ge=1, description="Times it has been handed out, this one included")
    rest: float = Field(
        0.0, ge=0, description="Seconds its host is to be left alone for: not to be asked now"
    )


class Settled(Contract):
    """What became of a leased task."""

    token: str
    counts: bool = Field(description="Whether it uses up its budget")
    reason: str = Field("", description="Reason code of a drop; empty where it was kept")


class Leftover(Contract):
    """A task that nobody fetched. ``reason``: ``over_budget``, ``host_budget``, ``dead_letter``."""

    task: Task = Field(discriminator="kind")
    reason: str
    detail: str = ""


def dump(task: Task) -> str:
    """JSON of a task; lone surrogates of hostile text are escaped."""
    return json.dumps(task.model_dump(mode="json"), separators=(",", ":"))


def load(text: str | bytes) -> Task:
    """The task of :func:`dump`'s JSON."""
    return _TASK.validate_python(json.loads(text))


def host_of(url: str) -> str:
    """``host[:port]``: what politeness is owed to."""
    return urlsplit(url).netloc


def seen_key(kind: Kind, url: str) -> str:
    """Key of a canonical URL in the set of those seen: 128 bits of BLAKE2b in hex."""
    return blake2b(f"{kind} {url}".encode(), digest_size=16).hexdigest()
