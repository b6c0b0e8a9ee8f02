"""The crawl's HTTP client: one for pages, images, robots.txt and APIs, behind Scrapy's middlewares.

Addresses are judged where they are connected to, sizes and times are bounded, and what the
headers reserve ends an answer before its body is read. On aiohttp, which takes a third of the
time of Scrapy's own handler for an image. Nothing of the environment (proxies, ``.netrc``) is
read, no cookie is kept, no redirect is followed and nothing is decompressed here: middlewares do
that within their limits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from scrapy import Request, exceptions
from scrapy.http import Headers, Response
from scrapy.responsetypes import responsetypes
from scrapy.spidermiddlewares.httperror import HttpError
from yarl import URL

from lora_factory.crawl.hosts import HostRules, is_public, numeric_address

log = logging.getLogger(__name__)

HOSTS = "LORA_FACTORY_HOSTS"  # Scrapy setting: Settings.crawl_hosts
PUBLIC = "LORA_FACTORY_PUBLIC"  # Settings.crawl_public
HEADER_BYTES = 16 * 1024
"""Of one line of an answer's head."""
HEADERS = 256
"""Lines of an answer's head."""
DNS_SECONDS = 60
BEFORE_BODY = "before_body"
"""Key of a request's meta: ``async (request, headers) -> None``; raises to refuse the answer."""
REFUSED_NAMES: dict[str, str] = {}
"""Name → an address of it that was refused; of this process, which crawls once."""


def host_rules(settings: Any) -> HostRules:
    """Rules of the deployment, from Scrapy's settings."""
    return HostRules(settings.getlist(HOSTS), public=settings.getbool(PUBLIC))


class GuardedResolver(AbstractResolver):
    """Passes on only addresses that may be connected to, IPv4 and IPv6, whoever asks.

    It holds for redirects, robots.txt and names whose address changes between two looks
    (rebinding) alike.
    """

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules
        self.own: set[str] = set()  # addresses of names that the operator listed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of ``host``.

        Raises:
            OSError: it has none, or none that may be connected to.
        """
        if not self._rules.allows_name(host):
            msg = f"{host} may not be looked up"
            raise OSError(msg)
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        found: list[ResolveResult] = []
        for kind, _, proto, _, address in infos:
            name = str(address[0])
            if not self._rules.allows_address(host, name):
                REFUSED_NAMES[host.lower()] = name
                log.warning("%s resolves to %s, which is not public", host, name)
                continue
            if not is_public_text(name):
                self.own.add(name)
            found.append(
                ResolveResult(
                    hostname=host, host=name, port=port, family=kind, proto=proto,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )  # fmt: skip
        if not found:
            msg = f"{host} has no address that may be connected to"
            raise OSError(msg)
        return found

    async def close(self) -> None:
        """Nothing is held."""


def is_public_text(address: str) -> bool:
    """Whether text is an address of the public internet."""
    found = numeric_address(address)
    return found is not None and is_public(found)


def guarded_connector(rules: HostRules) -> aiohttp.TCPConnector:
    """A connector that makes no socket to an address the rules refuse."""
    resolver = GuardedResolver(rules)

    def make(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        name = str(address[0])
        # An address that stands in the URL itself was never resolved: it is its own name.
        if name not in resolver.own and not rules.allows_address(name, name):
            msg = f"{name} is not public"
            raise OSError(msg)
        return socket.socket(family, kind, proto)

    return aiohttp.TCPConnector(
        limit=0,  # the frontier and Scrapy's slots count requests
        resolver=resolver,
        ttl_dns_cache=DNS_SECONDS,
        socket_factory=make,
    )


class Client:
    """Scrapy's download handler for http and https."""

    lazy = True  # made inside the reactor's loop

    def __init__(self, crawler: Any) -> None:
        settings = crawler.settings
        self._limit = settings.getint("DOWNLOAD_MAXSIZE")
        self._seconds = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._session = aiohttp.ClientSession(
            connector=guarded_connector(host_rules(settings)),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
            trust_env=False,
        )

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(crawler)

    async def download_request(self, request: Any) -> Response:
        """Send a request; its answer, whatever the status.

        Raises:
            DownloadTimeoutError: the whole took longer than ``download_timeout``.
            DownloadCancelledError: the body is larger than ``download_maxsize``, by its
                Content-Length or by what came.
            ResponseDataLossError: it ended before its end.
            CannotResolveHostError, DownloadConnectionRefusedError, DownloadFailedError: there
                was no answer, or none that is HTTP.
            Refused: as :data:`BEFORE_BODY` says.
        """
        seconds = request.meta.get("download_timeout", self._seconds)
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=[
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, values in request.headers.items()
                    for value in values
                ],
                data=request.body or None,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as answer:
                return await self._read(request, answer)
        except TimeoutError as err:
            msg = f"{request.url} took longer than {seconds:g} s"
            raise exceptions.DownloadTimeoutError(msg) from err
        except aiohttp.ClientPayloadError as err:
            raise exceptions.ResponseDataLossError(str(err)) from err
        except aiohttp.ClientConnectorDNSError as err:
            raise exceptions.CannotResolveHostError(str(err)) from err
        except aiohttp.ClientConnectorError as err:
            raise exceptions.DownloadConnectionRefusedError(str(err)) from err
        except (aiohttp.ClientError, ValueError) as err:
            # ValueError: a URL or header that this client can't send.
            raise exceptions.DownloadFailedError(f"{type(err).__name__}: {err}"[:300]) from err

    async def _read(self, request: Any, answer: aiohttp.ClientResponse) -> Response:
        headers = Headers()
        for name, value in answer.raw_headers:
            headers.appendlist(name, value)
        if 200 <= answer.status < 300:
            check: Callable[[Any, Headers], Awaitable[None]] | None
            check = request.meta.get(BEFORE_BODY)
            if check is not None:
                await check(request, headers)
        limit = request.meta.get("download_maxsize", self._limit)
        if (answer.content_length or 0) > limit:
            _too_large(answer.content_length, limit)
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > limit:
                _too_large(len(body), limit)
        data = bytes(body)
        kind = responsetypes.from_args(headers=headers, url=request.url, body=data)
        return kind(
            url=request.url, status=answer.status, headers=headers, body=data, request=request
        )

    async def close(self) -> None:
        """Called by Scrapy at the end."""
        await self._session.close()


async def fetch(engine: Any, request: Request) -> Response:
    """The answer to a request of a lease, by way of Scrapy's middlewares but not its queues.

    The frontier has done for a leased URL what those are for: it is its host's turn. What comes
    of it – a redirect, another try – takes the long way, where hosts have queues.

    Raises:
        HttpError: its status is none of 200 to 299.
        Exception: as :meth:`Client.download_request` and the middlewares.
    """
    downloader = engine.downloader
    send = downloader.handlers.download_request_async
    answer = await downloader.middleware.download_async(send, request)
    if isinstance(answer, Request):
        answer = await engine.download_async(answer)
    if not 200 <= answer.status < 300:
        raise HttpError(answer)
    return answer


def _too_large(size: int | None, limit: int) -> None:
    msg = f"{size} bytes, at most {limit}"
    raise exceptions.DownloadCancelledError(msg)
