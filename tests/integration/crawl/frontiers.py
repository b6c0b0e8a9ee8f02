"""Both frontiers under one clock that tests move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from lora_factory.crawl.extract import ImageRef
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.frontier_sqlite import SqliteFrontier
from lora_factory.crawl.tasks import ImageTask, PageTask, Scored, ShownImage


@dataclass
class Clock:
    """Seconds that pass when told to."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    """Opens a crawl's frontier as often as asked: each is one worker's view of the same crawl."""

    clock: Clock
    view: Callable[[Limits], Frontier]


def sqlite_rig(path: Any) -> Rig:
    """One file; all views share it within one process."""
    clock, views = Clock(), []

    def view(limits: Limits) -> Frontier:
        if not views:
            views.append(SqliteFrontier(path, limits, clock))
        return views[0]  # only one worker may have the file

    return Rig(clock, view)


def redis_rig(url: str) -> Rig:
    """A crawl of its own on the server."""
    clock, crawl = Clock(), uuid4().hex
    return Rig(clock, lambda limits: RedisFrontier(url, crawl, limits, clock=clock))


def page(url: str, score: float = 0.5) -> Scored:
    """A page to queue."""
    return Scored(task=PageTask(url=url), score=score)


def image(url: str, score: float = 0.5) -> Scored:
    """An image to queue."""
    shown = ShownImage(page_url="http://a/", page_title="A", topics={"t": score})
    return Scored(task=ImageTask(ref=ImageRef(url), shown=shown), score=score)
