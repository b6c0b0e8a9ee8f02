"""The frontier of several workers, on Redis or anything that speaks its protocol.

The rules are in ``frontier.lua``, run as one script: each call is a transaction, and the server's
clock is the only one. Payloads are JSON. All keys begin with ``lf:crawl:{<crawl id>}:`` and go a
week after the last heartbeat if nobody drops them. Use a Redis that keeps what it was told
(``appendonly yes``): one that comes back empty has lost the crawl, and workers say so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redis import asyncio as redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from lora_factory.contracts.crawl import (
    FrontierStatus,
    HostStatus,
    QueueStatus,
    WorkerStats,
    WorkerStatus,
)
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlRequest
from lora_factory.crawl.frontier import NONE, SILENT, Limits, limits_of, nothing_left
from lora_factory.crawl.tasks import (
    KINDS,
    Kind,
    Lease,
    Leftover,
    Scored,
    Settled,
    dump,
    host_of,
    load,
    seen_key,
)
from lora_factory.errors import ConfigurationError, DataError, ServiceUnavailable

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("frontier.lua")
BATCH = 200  # tasks sent in one call: other workers wait while it runs
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0  # seconds between looks at a server that is away
PATIENCE = 120.0  # seconds after which it counts as gone
AWAY = (ConnectionError, TimeoutError, BusyLoadingError, OSError)


class RedisFrontier:
    """See :class:`~lora_factory.crawl.frontier.Frontier`.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; may hold a password, so it is never shown.
        crawl: id of the crawl.
        limits: budgets and times.
        patience: seconds that a server may be away.
        clock: seconds, for tests; None: the server's.
    """

    def __init__(
        self,
        url: str,
        crawl: str,
        limits: Limits,
        *,
        patience: float = PATIENCE,
        clock: Any = None,
    ) -> None:
        try:
            # One that is away is waited for here, and only here.
            self._redis = redis.Redis.from_url(url, retry=None, socket_timeout=10)
        except ValueError as err:
            msg = "LORA_FACTORY_CRAWL_REDIS is no redis:// URL; correct it"
            raise ConfigurationError(msg) from err
        self._script = self._redis.register_script(SCRIPT.read_text(encoding="utf-8"))
        self._prefix = f"lf:crawl:{{{crawl}}}:"
        self._crawl, self._limits, self._patience, self._clock = crawl, limits, patience, clock
        given = {name: value for name, value in asdict(limits).items() if value is not None}
        self._options = json.dumps(given)
        self._waiting = 0  # calls that wait for a server that is away

    async def open(self) -> None:
        """See :class:`Frontier`."""
        await self._call("open")

    async def add(self, tasks: Sequence[Scored]) -> int:
        """See :class:`Frontier`."""
        added = 0
        for start in range(0, len(tasks), BATCH):
            arguments = (_task(scored) for scored in tasks[start : start + BATCH])
            added += await self._call("add", *(part for parts in arguments for part in parts))
        return added

    async def claim(self, key: str, owner: str) -> str:
        """See :class:`Frontier`."""
        return str((await self._call("claim", key, owner)).decode())

    async def lease(
        self, worker: str, kind: Kind, limit: int, freed: Mapping[str, bool] = NONE
    ) -> list[Lease]:
        """See :class:`Frontier`."""
        over = (part for token, asked in freed.items() for part in (token, int(asked)))
        found = await self._call("lease", worker, kind, limit, *over)
        return [
            Lease(token=token.decode(), tries=tries, task=load(body), rest=float(rest))
            for token, tries, body, rest in found
        ]

    async def set_host(self, host: str, *, delay: float, concurrency: int) -> None:
        """See :class:`Frontier`."""
        await self._call("set_host", host, delay, concurrency)

    async def pause(self, host: str, seconds: float) -> None:
        """See :class:`Frontier`."""
        await self._call("pause", host, seconds)

    async def ack(self, settled: Sequence[Settled], found: Sequence[Scored] = ()) -> int:
        """See :class:`Frontier`."""
        await self.add(found)
        parts = (
            (one.token, int(one.counts), one.reason or "kept", int(one.reason in SILENT))
            for one in settled
        )
        return int(await self._call("ack", *(part for four in parts for part in four)))

    async def nack(self, tokens: Sequence[str], reason: str) -> None:
        """See :class:`Frontier`."""
        await self._call("nack", reason, *tokens)

    async def reclaim(self) -> int:
        """See :class:`Frontier`."""
        return int(await self._call("reclaim"))

    async def heartbeat(self, worker: str, stats: WorkerStats, held: Sequence[str] = ()) -> None:
        """See :class:`Frontier`."""
        await self._call("heartbeat", worker, stats.model_dump_json(), *held)

    async def counts(self) -> dict[Kind, QueueStatus]:
        """See :class:`Frontier`."""
        n = _pairs(await self._call("counts"))
        limits = {"page": self._limits.max_pages, "image": self._limits.max_images}
        return {
            kind: QueueStatus(
                queued=int(n.get(f"queued:{kind}", 0)),
                in_flight=int(n.get(f"flight:{kind}", 0)),
                done=int(n.get(f"done:{kind}", 0)),
                limit=limits[kind],
            )
            for kind in KINDS
        }

    async def status(self) -> FrontierStatus:
        """See :class:`Frontier`."""
        hosts, total, workers, reasons, dead, idle = await self._call("status")
        counts = await self.counts()
        seen = tuple(_worker(*row, lease=self._limits.lease) for row in workers)
        return FrontierStatus(
            pages=counts["page"],
            images=counts["image"],
            hosts=tuple(_host(*row) for row in hosts),
            hosts_total=total,
            workers=seen,
            reasons={name: int(n) for name, n in sorted(_pairs(reasons).items())},
            dead=dead,
            rate=sum(worker.rate for worker in seen if not worker.stalled),
            idle=max(0.0, float(idle)),
            finished=nothing_left(counts),
        )

    async def finished(self) -> bool:
        """See :class:`Frontier`."""
        return nothing_left(await self.counts())

    async def leftovers(self) -> AsyncIterator[Leftover]:
        """See :class:`Frontier`; a task may come twice."""
        cursor = b"0"
        while True:
            cursor, rows = await self._call("leftovers", cursor)
            for reason, dead, tries, body in rows:
                detail = f"{dead.decode()}, {tries} tries" if dead else "not fetched"
                yield Leftover(task=load(body), reason=reason.decode(), detail=detail)
            if cursor == b"0":
                return

    async def drop(self) -> None:
        """See :class:`Frontier`."""
        try:
            async for name in self._redis.scan_iter(f"{self._prefix}*", count=1000):
                await self._redis.unlink(name)
        except (RedisError, OSError) as err:
            msg = f"the frontier of crawl {self._crawl} can't be removed: {type(err).__name__}"
            raise ServiceUnavailable(msg) from err

    async def close(self) -> None:
        """See :class:`Frontier`."""
        await self._redis.aclose()

    async def _call(self, name: str, *arguments: Any) -> Any:
        """Run an operation; while the server is away, wait for it.

        Each may be sent twice: what is settled, added or claimed stays so, and leases that nobody
        got to see run out.
        """
        started, waits, failed = time.monotonic(), _waits(), 0
        while True:
            now = "" if self._clock is None else repr(self._clock())
            try:
                found = await self._script([self._prefix], [name, now, self._options, *arguments])
            except AuthenticationError as err:
                msg = "LORA_FACTORY_CRAWL_REDIS: the server refuses the password; correct it"
                raise ConfigurationError(msg) from err
            except AWAY as err:
                failed += 1
                if failed == 2:  # one failure may be a connection that went stale
                    self._away(err)
                await self._wait(err, started, next(waits))
            except ResponseError as err:
                raise self._refused(name, err) from err
            else:
                if failed > 1:
                    self._back()
                return found

    async def _wait(self, err: BaseException, started: float, pause: float) -> None:
        if time.monotonic() - started + pause > self._patience:
            msg = (
                f"the frontier's Redis has been away for {self._patience:.0f} s "
                f"({type(err).__name__}); start it and run the task again"
            )
            raise ServiceUnavailable(msg) from err
        await asyncio.sleep(pause)

    def _away(self, err: BaseException) -> None:
        self._waiting += 1
        if self._waiting == 1:
            log.warning("the frontier's Redis is away (%s); waiting", type(err).__name__)

    def _back(self) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            log.warning("the frontier's Redis is back")

    def _refused(self, name: str, err: ResponseError) -> Exception:
        if str(err).startswith("LOST"):
            kind = DataError if name in {"status", "leftovers"} else ServiceUnavailable
            return kind(
                f"the frontier knows no crawl {self._crawl}: it has ended, or Redis lost it"
                " (it needs appendonly yes); run the crawl again"
            )
        return ServiceUnavailable(f"the frontier's Redis refuses: {str(err)[:200]}")


def open_redis(
    settings: Settings, crawl: str, spec: CrawlRequest, *, patience: float = PATIENCE
) -> RedisFrontier:
    """The frontier that several workers of a crawl share; nothing is connected yet.

    Raises:
        ConfigurationError: the deployment has no Redis for it.
    """
    url = settings.crawl_redis.get_secret_value()
    if not url:
        msg = "several crawl workers share a Redis; set LORA_FACTORY_CRAWL_REDIS, or use one worker"
        raise ConfigurationError(msg)
    return RedisFrontier(url, crawl, limits_of(spec, settings), patience=patience)


def _task(scored: Scored) -> tuple[str, str, str, str, str]:
    task = scored.task
    key = seen_key(task.kind, task.url)
    return key, task.kind, host_of(task.url), repr(float(scored.score)), dump(task)


def _waits() -> Iterator[float]:
    """Doubling pauses with some jitter, so that workers don't come back all at once."""
    pause = FIRST_WAIT
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = min(LONGEST_WAIT, 2 * pause)


def _pairs(flat: Iterable[bytes]) -> dict[str, str]:
    items = [item.decode() for item in flat]
    return dict(zip(items[::2], items[1::2], strict=True))


def _host(*row: Any) -> HostStatus:
    host, queued, busy, delay, most, wait = row
    return HostStatus(
        host=host.decode(),
        queued=int(float(queued)),
        in_flight=busy,
        delay=float(delay),
        concurrency=most,
        wait=float(wait),
    )


def _worker(name: bytes, ago: bytes, held: int, stats: bytes, *, lease: float) -> WorkerStatus:
    said = WorkerStats.model_validate_json(stats)
    return WorkerStatus(
        **said.model_dump(),
        worker=name.decode(),
        leases=max(0, held),
        last_seen=max(0.0, float(ago)),
        stalled=float(ago) > lease,
    )
