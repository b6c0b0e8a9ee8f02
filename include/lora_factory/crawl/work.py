"""crawl.work: one of several workers of a crawl (seed, 1.2).

They share a frontier on Redis and a work area in the artifact store, so each may run anywhere. A
worker that dies is replaced by itself, tried again, or by the others: what it held comes back
when its leases run out. One that begins when all is done returns at once. The artifact holds its
report and nothing else; the images are in the work area until ``crawl`` puts them together.
"""

from __future__ import annotations

import asyncio
import re
import socket
from uuid import uuid4

from lora_factory.contracts.base import Counts, StageReport
from lora_factory.contracts.crawl import WorkerStats
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest, WorkSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.frontier_redis import open_redis
from lora_factory.crawl.plan import read_plan
from lora_factory.crawl.stage import roles
from lora_factory.crawl.status import Watch, announce, state

__all__ = ["KIND", "SPEC", "VERSION", "roles", "run"]  # roles: those of the stage

KIND: Kind = "crawlpart"
VERSION = 2
SPEC = WorkSpec


class PartReport(StageReport):
    """Stats of a crawlpart; ``counts`` are of pages and images, errors among the dropped."""

    worker: str = ""
    work: WorkerStats = WorkerStats()


def run(spec: WorkSpec, ctx: StageContext) -> PartReport:
    """Work until nothing is left.

    Raises:
        ConfigurationError: the deployment has no Redis for the frontier.
        ServiceUnavailable: it, or the store, is away for too long.
        Interrupted: asked to stop; what was held goes to other workers.
    """
    from lora_factory.crawl.web import open_area, work

    artifact = ctx.inputs["plan"]
    plan, crawl = read_plan(spec, artifact), artifact.manifest.key
    if asyncio.run(_begin(ctx.settings, crawl, spec)):
        return PartReport()
    shared = announce(ctx.settings, crawl, spec, plan.workers)
    frontier, area = open_redis(ctx.settings, crawl, spec), open_area(ctx.settings, crawl)
    name = worker_name(spec.worker)
    with Watch(ctx.settings, shared):
        done = work(spec, plan.expansion, frontier, area, name, ctx)
    seen = done.pages + done.images
    return PartReport(
        counts=Counts(seen=seen, kept=max(0, seen - done.errors), dropped={"error": done.errors}),
        worker=name,
        work=done,
    )


def worker_name(number: int) -> str:
    """A name no other process has or had: machine, number, and something random."""
    machine = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:40]
    return f"{machine}-{number}-{uuid4().hex[:6]}"


async def _begin(settings: Settings, crawl: str, spec: CrawlRequest) -> bool:
    """Open the frontier; True if others have done everything, before a model is loaded here."""
    frontier = open_redis(settings, crawl, spec)
    try:
        await frontier.open()
        found = await frontier.status()
    finally:
        await frontier.close()
    return state(found) == "finished"
