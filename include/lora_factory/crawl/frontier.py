"""What is waiting to be fetched: one protocol, for one worker on disk and for many on Redis.

The rules, kept by :class:`~lora_factory.crawl.frontier_sqlite.SqliteFrontier` and
:class:`~lora_factory.crawl.frontier_redis.RedisFrontier` alike (same contract tests):

- A URL is queued once in a crawl, by its canonical spelling.
- A task is leased to one worker. Settled by :meth:`Frontier.ack` it is gone; given back by
  :meth:`Frontier.nack` it is handed out again later, and at once when its lease has run out.
  After ``max_tries`` (``max_lost`` where its workers died) it is a dead letter.
- Budgets are exact: ``done + in flight <= limit`` for pages, for pages of a host, and for images,
  over all workers.
  A task that doesn't count makes room for another.
- No page is handed out while enough images are known to fill their budget.
- A host is asked at most ``concurrency`` times at once and at most once in ``delay`` seconds,
  over all workers. It is busy from the lease until the worker says that the request is over
  (``freed`` of the next :meth:`Frontier.lease`), which is before its outcome is stored.
- A host that asks for a rest gets it from all workers. One that asks for more than ``max_rest``
  isn't waited for: its tasks are handed out with the seconds left, to be dropped unasked.
- Among hosts that may be asked now, the task of the highest score goes first; of equals the one
  whose host was asked longest ago, so that no few hosts are left for the end; of equals of one
  host, the first that came.

Everything a worker learns goes into the work area *before* the lease is settled, so a worker that
dies loses nothing that was settled, and what it held comes back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from lora_factory.contracts.crawl import FrontierStatus, QueueStatus, WorkerStats
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest
from lora_factory.crawl.tasks import Kind, Lease, Leftover, Scored, Settled

SILENT = frozenset({"timeout", "unreachable"})
"""Reason codes of tasks that nobody answered: they come out of a crawl that stands still, too."""
NONE: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True)
class Limits:
    """What a frontier keeps to. Times in seconds.

    A host that :meth:`Frontier.set_host` hasn't named is asked one request at a time,
    ``default_delay`` apart: nobody has read its robots.txt yet.
    """

    max_pages: int
    max_images: int
    default_delay: float = 1.0
    lease: float = 30.0
    """A lease runs out this long after it was handed out or last named in a heartbeat."""
    pages_per_host: int | None = None
    """Budget of each host, within ``max_pages``."""
    max_tries: int = 8
    """Tries after which a task that is given back is a dead letter."""
    max_lost: int = 40
    """The same where leases run out: more, since what killed the worker was rarely the task."""
    max_rest: float = 120.0
    """Rest of a host that is waited for."""
    retry_delay: float = 2.0
    """Wait before the second try; doubled for each further one."""


def limits_of(spec: CrawlRequest, settings: Settings) -> Limits:
    """What a crawl asks for, as the deployment allows it."""
    return Limits(
        spec.max_pages,
        spec.max_images,
        settings.crawl_delay,
        pages_per_host=spec.max_pages_per_host,
    )


class Frontier(Protocol):
    """Tasks of one crawl. Every method may raise ServiceUnavailable when its service is away."""

    async def open(self) -> None:
        """Begin, or go on; before anything else, by whoever works on the crawl."""

    async def add(self, tasks: Sequence[Scored]) -> int:
        """Queue tasks whose URL was never queued before; returns how many those were."""

    async def claim(self, key: str, owner: str) -> str:
        """Give ``key`` to the first ``owner`` who asks; returns whose it is.

        Keys are sha256 of images (bytes once) and :func:`seen_key` of a redirect's target. One
        that was queued as a task of its own belongs to nobody who asks: the empty string.
        """

    async def lease(
        self, worker: str, kind: Kind, limit: int, freed: Mapping[str, bool] = NONE
    ) -> list[Lease]:
        """Hand out up to ``limit`` tasks that may be fetched at once; empty if there are none.

        ``freed``: tokens whose requests are over, and whether their hosts got to see them. A
        request that robots.txt or a cache answered takes no host's time.
        """

    async def set_host(self, host: str, *, delay: float, concurrency: int) -> None:
        """Politeness owed to ``host[:port]``: seconds between requests, requests at a time."""

    async def pause(self, host: str, seconds: float) -> None:
        """``host[:port]`` wants to be left alone for so long, from now."""

    async def ack(self, settled: Sequence[Settled], found: Sequence[Scored] = ()) -> int:
        """Queue what was found, then settle leases; returns how many were still held."""

    async def nack(self, tokens: Sequence[str], reason: str) -> None:
        """Give tasks back, to be tried again later."""

    async def reclaim(self) -> int:
        """Take back leases that have run out; returns how many. :meth:`lease` does it too."""

    async def heartbeat(self, worker: str, stats: WorkerStats, held: Sequence[str] = ()) -> None:
        """This worker lives, and works on the leases whose tokens it names: they go on."""

    async def counts(self) -> dict[Kind, QueueStatus]:
        """Queue depths and budgets; cheap."""

    async def status(self) -> FrontierStatus:
        """The whole picture, for people.

        Raises:
            DataError: there is no such crawl.
        """

    async def finished(self) -> bool:
        """Nothing is in flight, and nothing queued will ever be handed out."""

    def leftovers(self) -> AsyncIterator[Leftover]:
        """What nobody fetched; once the crawl is over. It stays there until :meth:`drop`."""

    async def drop(self) -> None:
        """Forget the crawl."""

    async def close(self) -> None:
        """Let go of files and connections."""


def nothing_left(counts: Mapping[Kind, QueueStatus]) -> bool:
    """Whether a crawl of these counts is finished."""
    pages, images = counts["page"], counts["image"]
    if pages.in_flight or images.in_flight:
        return False
    wanted = images.done + images.queued < images.limit
    more_pages = pages.queued > 0 and pages.done < pages.limit and wanted
    return not more_pages and not (images.queued > 0 and images.done < images.limit)
