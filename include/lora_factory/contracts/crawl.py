"""A crawl that workers share: its plan, and what its frontier tells for status command and page.

A crawl's id is the key of its ``crawlplan`` artifact: unique for what is crawled and when.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.expansion import Expansion
from lora_factory.contracts.specs import MAX_CRAWL_WORKERS, Source


class CrawlPlan(Contract):
    """``plan.json`` of a crawlplan: what every worker of the crawl goes by."""

    workers: int = Field(ge=1, le=MAX_CRAWL_WORKERS, description="1: the stage crawls by itself")
    expansion: Expansion = Field(description="Terms that are looked for")


class QueueStatus(Contract):
    """Pages or images of a crawl. ``done + in_flight`` never exceeds ``limit``."""

    queued: int = Field(0, ge=0, description="Waiting, or to be tried again")
    in_flight: int = Field(0, ge=0, description="Leased to a worker")
    done: int = Field(0, ge=0, description="Settled, and counted by the budget")
    limit: int = Field(0, ge=0, description="max_pages or max_images")


class HostStatus(Contract):
    """One host that has something queued."""

    host: str
    queued: int = Field(0, ge=0)
    in_flight: int = Field(0, ge=0, description="Requests under way")
    delay: float = Field(0, ge=0, description="Seconds between two requests")
    concurrency: int = Field(1, ge=1, description="Requests at a time")
    wait: float = Field(0, ge=0, description="Seconds until it may be asked again")


class WorkerStats(Contract):
    """What a worker says of itself with each heartbeat."""

    pages: int = Field(0, ge=0, description="Pages settled")
    images: int = Field(0, ge=0, description="Images settled")
    errors: int = Field(0, ge=0, description="Requests that failed")
    rate: float = Field(0, ge=0, description="Pages a second over the last minute")


class WorkerStatus(WorkerStats):
    """One worker as the frontier sees it."""

    worker: str
    leases: int = Field(0, ge=0, description="Tasks it holds")
    last_seen: float = Field(0, ge=0, description="Seconds since its last heartbeat")
    stalled: bool = Field(default=False, description="Not heard of for longer than a lease lasts")


class FrontierStatus(Contract):
    """A crawl at one moment."""

    pages: QueueStatus = QueueStatus()
    images: QueueStatus = QueueStatus()
    hosts: tuple[HostStatus, ...] = Field((), description="The deepest queues first, at most 100")
    hosts_total: int = Field(0, ge=0, description="Hosts with something queued")
    workers: tuple[WorkerStatus, ...] = ()
    reasons: dict[str, int] = Field(
        default_factory=dict, description="Reason code → pages and images settled with it"
    )
    dead: int = Field(0, ge=0, description="Given up after too many tries")
    rate: float = Field(0, ge=0, description="Pages a second of the workers that are alive")
    idle: float = Field(
        0, ge=0, description="Seconds since something was settled that a server had answered"
    )
    finished: bool = False


CrawlState = Literal["starting", "running", "stalled", "deserted", "finished"]


class SharedCrawl(Contract):
    """A crawl as its first worker announced it."""

    crawl: str = Field(description="Its id")
    topics: tuple[str, ...]
    source: Source
    workers: int = Field(ge=1, description="Planned")
    max_pages: int
    max_images: int
    started: datetime


class CrawlStatus(SharedCrawl):
    """A crawl at one moment, as command and page show it.

    ``starting``: nothing was queued yet. ``stalled``: leases are out, and no server has answered
    for long. ``deserted``: there is work, and no worker was heard of for longer than a lease lasts.
    """

    state: CrawlState
    seconds_left: float | None = Field(None, ge=0, description="For what is queued; None: unknown")
    frontier: FrontierStatus
