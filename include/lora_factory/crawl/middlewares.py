"""What stands between the spider and the network: allowed hosts first, then robots.txt."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self
from urllib.parse import urlsplit

from protego import Protego
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.http.request import NO_CALLBACK
from scrapy.resolver import CachingThreadedResolver
from twisted.internet import defer
from twisted.internet.error import DNSLookupError

from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.optout import product_token

log = logging.getLogger(__name__)

HOSTS = "LORA_FACTORY_HOSTS"  # Scrapy setting: Settings.crawl_hosts
ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: at least this much is read


class Refused(IgnoreRequest):  # type: ignore[misc]
    """A request isn't sent; ``reason`` is the code for the audit."""

    def __init__(self, *, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class HostGuard:
    """Lets through requests to allowed hosts only: pages, images, redirects, robots.txt alike."""

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(HostRules(crawler.settings.getlist(HOSTS)))

    def process_request(self, request: Any) -> None:
        """Raise :class:`Refused` unless the deployment allows the host."""
        if not self._rules.allows(request.url):
            raise Refused(
                reason="host_not_allowed", detail=f"{urlsplit(request.url).netloc} is not listed"
            )


class AllowedResolver(CachingThreadedResolver):  # type: ignore[misc]
    """The same list once more where a name becomes an address, whoever asks.

    IPv4 only, as its base.
    """

    rules: HostRules

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> Self:
        """Built by Scrapy."""
        resolver: Self = super().from_crawler(crawler, reactor)
        resolver.rules = HostRules(crawler.settings.getlist(HOSTS))
        return resolver

    def getHostByName(self, name: str, timeout: Any = ()) -> Any:  # noqa: N802 - Twisted's name
        """Deferred address of an allowed name; DNSLookupError for any other."""
        if not self.rules.allows_name(name):
            return defer.fail(DNSLookupError(f"{name} is not an allowed host"))
        return super().getHostByName(name, timeout)


class RobotsMiddleware:
    """robots.txt by RFC 9309: 2xx is obeyed, 4xx allows, anything else disallows.

    Scrapy's own middleware fetches the page where robots.txt answers 503. A robots.txt that
    says 429, or redirects more than five times, is taken as unreachable too.
    """

    def __init__(self, crawler: Any, token: str) -> None:
        self._crawler, self._token = crawler, token
        self._rules: dict[str, asyncio.Task[tuple[Protego | None, str]]] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(crawler, product_token(crawler.settings["USER_AGENT"]))

    async def process_request(self, request: Any) -> None:
        """Raise :class:`Refused` where robots.txt closes the URL."""
        if request.meta.get("robots"):
            return
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._rules:
            self._rules[origin] = asyncio.get_running_loop().create_task(self._fetch(origin))
        rules, problem = await self._rules[origin]
        if rules is None:
            raise Refused(reason="robots_disallowed", detail=problem)
        if not rules.can_fetch(request.url, self._token):
            raise Refused(
                reason="robots_disallowed", detail=f"{origin}/robots.txt closes {parts.path}"
            )

    async def _fetch(self, origin: str) -> tuple[Protego | None, str]:
        """Rules of a site; None and why where everything is closed."""
        url = f"{origin}/robots.txt"
        request = Request(url, callback=NO_CALLBACK, priority=1000, meta={"robots": True})
        try:
            response = await self._crawler.engine.download_async(request)
        except Exception as err:
            # The one boundary: whatever keeps robots.txt from being read closes the site.
            log.info("%s can't be read (%s), the site stays closed", url, err)
            return None, f"{url} can't be read: {type(err).__name__}"
        if response.status < 200 or response.status >= 500 or response.status == 429:
            return None, f"{url} answers HTTP {response.status}"
        if response.status >= 400:
            return Protego.parse(""), ""
        if response.status >= 300:
            return None, f"{url} redirects nowhere"
        return Protego.parse(response.body[:ROBOTS_BYTES].decode("utf-8-sig", "ignore")), ""
