"""Requests to public graphs: only to hosts the crawler may reach, and never for long.

The same rules as the spider's (:mod:`lora_factory.crawl.hosts`): a URL is judged by its looks,
also where a redirect leads, and the address when it is connected to, so a name that resolves to a
private address reaches nothing. Proxies are not used: they would resolve names elsewhere.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from lora_factory.contracts.settings import Settings
from lora_factory.crawl.graph.base import GraphError, TooLate, Unreachable, Unreadable
from lora_factory.crawl.graph.memory import Breaker
from lora_factory.crawl.hosts import HostRules

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024
MAX_REDIRECTS = 5
TRIES = 3
BACK_OFF = 0.5  # seconds before the second try, twice that before the third
TIMEOUT = 8.0
"""Seconds of one request, at most."""
PATIENT = 2.0
"""Seconds from which on waiting in vain tells something about the service."""
BUSY = frozenset({429, 503})


class NoAnswer(Unreachable):
    """The connection wasn't made, or broke: worth a second try."""


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Deadline:
    """Monotonic time after which nothing is asked any more."""

    at: float


class GuardedBackend(httpcore.SyncBackend):
    """Connects to addresses that the rules allow, and to no other.

    The address that was judged is the one connected to; TLS still checks the name.
    """

    def __init__(self, rules: HostRules) -> None:
        super().__init__()
        self._rules = rules

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, judge, connect; the first address that may be and can be reached.

        Raises:
            ConnectError: there is none.
        """
        problem = f"{host} has no address"
        for address in _resolve(host, port, timeout):
            if not self._rules.allows_address(host, address):
                problem = f"{host} resolves to {address}, which is not public"
                log.warning("%s", problem)
                continue
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as err:
                problem = f"{address} port {port}: {err}"
        raise httpcore.ConnectError(problem)


def _resolve(host: str, port: int, timeout: float | None) -> list[str]:
    """Addresses of a name, within a time: getaddrinfo itself knows none."""
    found: list[str] = []
    problem: list[str] = []

    def look() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as err:
            problem.append(str(err))
        else:
            found.extend(dict.fromkeys(str(row[4][0]) for row in rows))

    thread = threading.Thread(target=look, name="resolve", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        msg = f"{host} wasn't resolved in time"
        raise httpcore.ConnectTimeout(msg)
    if problem:
        msg = f"{host}: {problem[0]}"
        raise httpcore.ConnectError(msg)
    return found


class JsonClient:
    """Asks one service for JSON.

    Args:
        settings: hosts that may be reached, User-Agent.
        breaker: of the service.
        deadline: may be moved between requests.
    """

    def __init__(self, settings: Settings, breaker: Breaker, deadline: Deadline) -> None:
        self._rules = HostRules(settings.crawl_hosts, public=settings.crawl_public)
        self._agent = settings.user_agent
        self._breaker, self._deadline = breaker, deadline
        self._pool = httpcore.ConnectionPool(
            max_connections=1, network_backend=GuardedBackend(self._rules)
        )

    def get(self, url: str) -> Any:
        """The JSON at ``url``; None for 404.

        Raises:
            GraphError: Absent, TooLate, Unreachable or Unreadable; nothing else.
        """
        self._breaker.enter()
        patience = min(TIMEOUT, self._left(url))
        wait = 0.0
        try:
            answer = self._ask(url)
            if answer.status in BUSY:
                wait = _retry_after(answer)
            found = _meaning(answer, url)
        except TooLate:
            if patience >= PATIENT:
                self._breaker.failed()
            raise
        except GraphError:
            self._breaker.failed(wait)
            raise
        self._breaker.succeeded()
        return found

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _ask(self, url: str) -> Answer:
        """The first answer that isn't an error of the service's, or the last try's."""
        for attempt in range(1, TRIES + 1):
            pause = BACK_OFF * 2 ** (attempt - 1)
            try:
                answer = self._follow(url)
                if answer.status < 500 and answer.status not in BUSY:
                    return answer
                pause = max(pause, _retry_after(answer))
            except NoAnswer as err:
                if attempt == TRIES:
                    raise
                log.info("%s: %s; asked again", url, err)
            else:
                if attempt == TRIES or pause > self._left(url):
                    return answer
            time.sleep(min(pause, self._left(url)))
        msg = f"{url} was not answered"
        raise Unreachable(msg)

    def _follow(self, url: str) -> Answer:
        until = min(time.monotonic() + TIMEOUT, self._deadline.at)
        for _ in range(MAX_REDIRECTS + 1):
            if not self._rules.allows(url):
                host = urlsplit(url).netloc[:200]
                msg = f"{host} is neither public nor in LORA_FACTORY_CRAWL_HOSTS"
                raise Unreachable(msg)
            answer = self._fetch(url, until)
            location = answer.headers.get("location", "")
            if not (300 <= answer.status < 400 and location):
                return answer
            try:
                url = urljoin(url, location)
            except ValueError as err:
                msg = f"{url} redirects to nothing that is a URL"
                raise Unreachable(msg) from err
        msg = f"{url} redirects more than {MAX_REDIRECTS} times"
        raise Unreachable(msg)

    def _fetch(self, url: str, until: float) -> Answer:
        seconds = max(0.01, until - time.monotonic())
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        headers: dict[bytes | str, bytes | str] = {
            "Host": urlsplit(url).netloc,
            "User-Agent": self._agent,
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # nothing to unpack, so no bomb
        }
        try:
            with self._pool.stream(
                "GET", url, headers=headers, extensions={"timeout": timeout}
            ) as response:
                body = b""
                for chunk in response.iter_stream():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        msg = f"{url} answers more than {MAX_BYTES} bytes"
                        raise Unreadable(msg)
                    if time.monotonic() > until:
                        msg = f"{url} was still answering after {seconds:.1f} s"
                        raise TooLate(msg)
                sent = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                return Answer(response.status, sent, body)
        except httpcore.TimeoutException as err:
            msg = f"{url} didn't answer within {seconds:.1f} s"
            raise TooLate(msg) from err
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            OSError,  # a certificate that isn't the host's
            ValueError,  # a redirect that h11 can't put into a request line
        ) as err:
            msg = f"{url} can't be reached: {type(err).__name__}: {str(err)[:200]}"
            raise NoAnswer(msg) from err

    def _left(self, url: str) -> float:
        """Seconds left.

        Raises:
            TooLate: none.
        """
        left = self._deadline.at - time.monotonic()
        if left <= 0:
            msg = f"no time left to ask {url}"
            raise TooLate(msg)
        return left


def _meaning(answer: Answer, url: str) -> Any:
    if answer.status == 404:
        return None
    if answer.status != 200:
        msg = f"{url} answers HTTP {answer.status}"
        raise Unreachable(msg)
    return parse_json(answer.body, url)


def parse_json(body: bytes, url: str) -> Any:
    """JSON of strangers: UTF-8, no NaN, no nesting that would use up the stack.

    Raises:
        Unreadable: it is none.
    """

    def refuse(constant: str) -> Any:
        msg = f"{constant} is no JSON"
        raise ValueError(msg)

    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError) as err:
        msg = f"{url} doesn't answer with JSON: {type(err).__name__}: {body[:40]!r}"
        raise Unreadable(msg) from err


def _retry_after(answer: Answer) -> float:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3), as a number or as a date."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:6])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return 0.0
