"""``crawl-status [CRAWL]``: how the crawls that several workers share are going.

Queue depth of each host, rate, drops by reason, workers alive, budget, time left. CRAWL is an
id (the key of its crawlplan artifact) or how it begins; without one all are shown. Exits 1 if
one of them has stalled or lost its workers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from lora_factory.contracts.crawl import CrawlStatus, QueueStatus
from lora_factory.contracts.settings import Settings
from lora_factory.errors import SpecError

HELP = "how crawls with several workers are going"
HOSTS = 15  # of each crawl, the deepest queues first
CLEAR = "\x1b[H\x1b[2J"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "crawl", nargs="?", default="", metavar="CRAWL", help="id, or its beginning"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a crawl and line")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="look again and again, until interrupted or nothing is left",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Show the crawls.

    Raises:
        SpecError: there is no such crawl.
        ConfigurationError, ServiceUnavailable: there is no Redis, or it does not answer.
    """
    try:
        while True:
            found = _find(args.crawl, settings)
            if args.watch and not args.json and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            sys.stdout.writelines(_json(found) if args.json else _text(found))
            sys.stdout.flush()
            if not args.watch or all(crawl.state == "finished" for crawl in found):
                bad = {crawl.state for crawl in found} & {"stalled", "deserted"}
                return 1 if bad else 0
            time.sleep(args.watch)
    except KeyboardInterrupt:
        return 0


def _find(wanted: str, settings: Settings) -> list[CrawlStatus]:
    from lora_factory.crawl.status import read_all

    every = asyncio.run(read_all(settings))
    found = [crawl for crawl in every if crawl.crawl.startswith(wanted)]
    if wanted and not found:
        known = ", ".join(crawl.crawl for crawl in every) or "none"
        msg = f"no crawl {wanted!r} is on the frontier (merged, or of one worker); there: {known}"
        raise SpecError(msg)
    return found


def _json(crawls: Iterable[CrawlStatus]) -> Iterator[str]:
    for crawl in crawls:
        yield json.dumps(crawl.model_dump(mode="json")) + "\n"


def _text(crawls: Sequence[CrawlStatus]) -> Iterator[str]:
    if not crawls:
        yield "no crawl is shared now\n"
    for crawl in crawls:
        yield from (plain(line).rstrip() + "\n" for line in describe(crawl))


def describe(crawl: CrawlStatus) -> Iterator[str]:
    """A crawl as lines of text."""
    now = crawl.frontier
    alive = sum(not worker.stalled for worker in now.workers)
    yield f"crawl    {crawl.crawl}  {crawl.state}"
    yield f"         {', '.join(crawl.topics)}; source {crawl.source}, since {_clock(crawl)}"
    yield f"pages    {_queue(now.pages)}"
    yield f"images   {_queue(now.images)}"
    left = "unknown" if crawl.seconds_left is None else f"{crawl.seconds_left:.0f} s"
    yield f"rate     {now.rate:.1f} pages/s, time for what is queued {left}"
    yield f"settled  {_reasons(now.reasons)}; {now.dead} given up; last {now.idle:.0f} s ago"
    yield f"workers  {alive} of {crawl.workers} alive"
    if now.workers:
        yield "         seen      tasks  pages  images  errors  pages/s  name"
    for one in now.workers:
        seen = "dead" if one.stalled else f"{one.last_seen:.0f} s ago"
        yield (
            f"         {seen:<9} {one.leases:>5}  {one.pages:>5}  {one.images:>6}  {one.errors:>6}"
            f"  {one.rate:>7.1f}  {one.worker}"
        )
    more = now.hosts_total - min(HOSTS, len(now.hosts))
    yield f"hosts    {now.hosts_total} with something queued"
    if now.hosts:
        yield "         queued  asked  at most  each    next in  name"
    for host in now.hosts[:HOSTS]:
        yield (
            f"         {host.queued:>6}  {host.in_flight:>5}  {host.concurrency:>7}"
            f"  {host.delay:>4.1f} s  {host.wait:>5.1f} s  {host.host}"
        )
    if more > 0:
        yield f"         … and {more} more"


def plain(text: str) -> str:
    """``text`` without what a terminal would obey: names of hosts come from the web."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _queue(queue: QueueStatus) -> str:
    return f"{queue.done} of {queue.limit} done, {queue.in_flight} leased, {queue.queued} queued"


def _reasons(reasons: dict[str, int]) -> str:
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ranked) or "nothing yet"


def _clock(crawl: CrawlStatus) -> str:
    return f"{crawl.started:%Y-%m-%d %H:%M:%S} UTC"
