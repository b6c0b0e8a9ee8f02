"""What stands between the spider and the network: allowed hosts, robots.txt, reservations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from protego import Protego
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.http.request import NO_CALLBACK

from lora_factory.crawl import signals
from lora_factory.crawl.client import REFUSED_NAMES, host_rules
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.optout import product_token
from lora_factory.crawl.signals import Rule

log = logging.getLogger(__name__)

DELAY = "LORA_FACTORY_DELAY"  # Scrapy setting: Settings.crawl_delay
ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: at least this much is read
OFFICIAL = {"delay": 1.0, "jitter": 0.0, "concurrency": 1}
POLITE = 2
"""Connections at a time to a host that isn't the operator's own."""
OWN_CONCURRENCY = 8
"""Connections at a time to one that is."""
POLITENESS = "politeness"
"""Key of a request's meta: host → (delay in seconds, connections at a time)."""


class Refused(IgnoreRequest):  # type: ignore[misc]
    """A request isn't sent, or its answer not read; ``reason`` is the code for the audit.

    ``asked``: the host got to see the request.
    """

    def __init__(self, *, reason: str, detail: str, asked: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.asked = reason, detail, asked


class HostGuard:
    """Lets through requests to allowed hosts only: pages, images, redirects, robots.txt alike."""

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(host_rules(crawler.settings))

    def process_request(self, request: Any) -> None:
        """Raise :class:`Refused` unless the deployment allows the host."""
        if not self._rules.allows(request.url):
            raise Refused(
                reason="host_not_allowed",
                detail=f"{urlsplit(request.url).netloc} is neither public nor listed",
            )


@dataclass(frozen=True)
class SiteRules:
    """What a site as a whole allows: robots.txt, and what it reserves against training.

    ``robots`` None: everything is closed, ``problem`` says why.
    """

    robots: Protego | None
    reserved: tuple[Rule, ...] = ()
    problem: str = ""


class SiteReader:
    """Fetches what a site says of itself; one per crawl, used inside the reactor's loop."""

    def __init__(self, engine: Any, token: str) -> None:
        self._engine, self._token = engine, token
        self._sites: dict[str, asyncio.Task[SiteRules]] = {}
        self._licences: dict[str, asyncio.Task[tuple[Rule, ...]]] = {}

    async def site(self, origin: str) -> SiteRules:
        """Rules of ``scheme://host[:port]``, fetched once."""
        if origin not in self._sites:
            self._sites[origin] = asyncio.get_running_loop().create_task(self._site(origin))
        return await self._sites[origin]

    async def licence(self, url: str) -> tuple[Rule, ...]:
        """Rules of an RSL document, fetched once; one that can't be had reserves everything."""
        if url not in self._licences:
            reading = self._rules(url, signals.rsl_rules, absent_reserves=True)
            self._licences[url] = asyncio.get_running_loop().create_task(reading)
        return await self._licences[url]

    async def _site(self, origin: str) -> SiteRules:
        url = f"{origin}/robots.txt"
        status, body = await self._read(url)
        if status < 200 or status >= 500 or status == 429:
            # RFC 9309, 2.3.1.4: what can't be reached is closed.
            return SiteRules(None, problem=f"{url} answers {_in_words(status, body)}")
        if 300 <= status < 400:
            return SiteRules(None, problem=f"{url} redirects nowhere")
        text = body[:ROBOTS_BYTES].decode("utf-8-sig", "ignore") if status < 300 else ""
        said = signals.robots_signals(text, self._token, url)
        tdmrep = f"{origin}/.well-known/tdmrep.json"
        found = await asyncio.gather(
            self._rules(tdmrep, signals.tdmrep_rules, absent_reserves=False),
            *(self.licence(licence) for licence in said.licences),
        )
        reserved = (*said.rules, *(rule for rules in found for rule in rules))
        return SiteRules(Protego.parse(text), reserved)

    async def _rules(
        self, url: str, parse: Callable[[bytes, str], tuple[Rule, ...]], *, absent_reserves: bool
    ) -> tuple[Rule, ...]:
        status, body = await self._read(url)
        if 200 <= status < 300:
            return parse(body[:ROBOTS_BYTES], url)
        if 400 <= status < 500 and status != 429 and not absent_reserves:
            return ()
        why = f"{url} answers {_in_words(status, body)}: taken as a reservation"
        return (Rule(signals.EVERYTHING, reserved=True, evidence=why),)

    async def _read(self, url: str) -> tuple[int, bytes]:
        """Status and body; 0 and the error's name where no answer came."""
        request = Request(url, callback=NO_CALLBACK, priority=1000, meta={"site_rules": True})
        try:
            response = await self._engine.download_async(request)
        except Exception as err:
            # The one boundary: whatever keeps a rule from being read counts as closed.
            log.info("%s can't be read (%s)", url, err)
            return 0, type(err).__name__.encode()
        return response.status, response.body


class SiteRulesMiddleware:
    """Asks a site's rules before anything of it is fetched.

    robots.txt by RFC 9309: 2xx is obeyed, 4xx allows, anything else disallows (Scrapy's own
    middleware fetches the page where robots.txt answers 503); one that says 429, or redirects
    more than five times, is taken as unreachable too. Then Content-Signal, Content-Usage,
    TDMRep and RSL: this crawl only fetches to train, so what is reserved is not fetched.
    """

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler
        self._hosts = host_rules(crawler.settings)
        self._delay = crawler.settings.getfloat(DELAY)
        self._token = product_token(crawler.settings["USER_AGENT"])
        self._reader: SiteReader | None = None

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(crawler)

    @property
    def reader(self) -> SiteReader:
        """Made at the first request: the engine is there by then."""
        if self._reader is None:
            self._reader = SiteReader(self._crawler.engine, self._token)
        return self._reader

    async def process_request(self, request: Any) -> None:
        """Raise :class:`Refused` where robots.txt closes the URL, or its site reserves it."""
        if request.meta.get("site_rules"):
            return
        if request.meta.get("official"):
            # An API is made to be asked; one request at a time is what its hosts ask for.
            self._slot(request, urlsplit(request.url).netloc, OFFICIAL)
            return
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        rules = await self.reader.site(origin)
        if rules.robots is None and (address := REFUSED_NAMES.get(parts.hostname or "")):
            raise Refused(
                reason="host_not_allowed", detail=f"it resolves to {address}, which is not public"
            )
        if rules.robots is None:
            raise Refused(reason="robots_disallowed", detail=rules.problem)
        if not rules.robots.can_fetch(request.url, self._token):
            raise Refused(
                reason="robots_disallowed", detail=f"{origin}/robots.txt closes {parts.path}"
            )
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        if evidence := signals.refusal(path, rules.reserved):
            raise Refused(reason="opt_out", detail=evidence)
        self._be_polite(request, parts.netloc, rules.robots)
        # What a page's own licence link says is asked by the spider, through the same reader.
        request.meta["site_reader"] = self.reader

    def _be_polite(self, request: Any, host: str, robots: Protego) -> None:
        """Give the host its own queue: robots.txt's Crawl-delay, and the deployment's, hold."""
        asked = robots.crawl_delay(self._token) or 0.0
        own = self._hosts.lists(request.url)
        delay = max(float(asked), 0.0 if own else self._delay)
        slot = {"delay": delay, "jitter": 0.0}
        if delay or not own:
            slot["concurrency"] = 1 if asked else POLITE
        self._slot(request, host, slot)

    def _slot(self, request: Any, host: str, slot: dict[str, float]) -> None:
        self._crawler.engine.downloader.per_slot_settings.setdefault(host, slot)
        request.meta["download_slot"] = host
        # For the frontier, which keeps to it over all workers; redirects add their hosts.
        request.meta.setdefault(POLITENESS, {})[host] = (
            slot["delay"], int(slot.get("concurrency", OWN_CONCURRENCY))
        )  # fmt: skip


def _in_words(status: int, body: bytes) -> str:
    return f"HTTP {status}" if status else body.decode()
