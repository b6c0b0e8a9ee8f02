"""The client: where it connects to, what it believes, and how much of it."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scrapy import Request, exceptions
from scrapy.http import Headers, Response
from scrapy.settings import Settings

from lora_factory.crawl.client import BEFORE_BODY, Client, GuardedResolver, guarded_connector
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.middlewares import Refused

Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What name servers answer: name → addresses."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        more.pop("family", None)
        return [
            found
            for address in known.get(host, [host])
            for found in real(address, port, type=socket.SOCK_STREAM)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def resolved(host: str, *, public: bool = True) -> list[str]:
    """Which addresses of a name get through."""

    async def look() -> list[str]:
        resolver = GuardedResolver(HostRules(["gallery.example"], public=public))
        return [found["host"] for found in await resolver.resolve(host, 80)]

    try:
        return asyncio.run(look())
    except OSError:
        return []


def test_only_public_addresses_get_through(names: dict[str, list[str]]) -> None:
    names["g.test"] = ["127.0.0.1", "93.184.216.34", "::1", "2606:2800::1", "10.0.0.1"]
    assert resolved("g.test") == ["93.184.216.34", "2606:2800::1"]


def test_a_listed_name_may_be_anywhere(names: dict[str, list[str]]) -> None:
    names["gallery.example"] = ["10.0.0.1", "93.184.216.34"]
    assert resolved("gallery.example") == ["10.0.0.1", "93.184.216.34"]


def test_without_the_public_web_only_listed_names_are_resolved(
    names: dict[str, list[str]],
) -> None:
    names |= {"g.test": ["93.184.216.34"], "metadata.internal": ["93.184.216.34"]}
    assert resolved("g.test", public=False) == []
    assert resolved("metadata.internal") == []


def test_a_name_that_moves_gains_nothing(names: dict[str, list[str]]) -> None:
    for addresses, found in ((["93.184.216.34"], ["93.184.216.34"]), (["127.0.0.1"], [])):
        names["g.test"] = addresses
        assert resolved("g.test") == found


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_no_socket_is_made_to_a_private_address(address: str) -> None:
    """The last look, where an address stands in the URL and no name is resolved."""

    async def connect() -> None:
        connector = guarded_connector(HostRules([]))
        assert connector._socket_factory is not None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        info = (family, socket.SOCK_STREAM, 0, "", (address, 80))
        with pytest.raises(OSError, match="not public"):
            connector._socket_factory(info)
        await connector.close()

    asyncio.run(connect())


@asynccontextmanager
async def serving(say: Say, context: ssl.SSLContext | None = None) -> Any:
    """A server on a free port; yields the port."""
    server = await asyncio.start_server(say, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def asked(
    say: Say,
    *,
    listed: bool = True,
    scheme: str = "http",
    context: ssl.SSLContext | None = None,
    limit: int = 10_000,
    meta: dict[str, Any] | None = None,
) -> Response:
    """The client's answer from a server of this machine."""

    async def ask() -> Response:
        async with serving(say, context) as port:
            values = {
                "LORA_FACTORY_HOSTS": [f"127.0.0.1:{port}"] if listed else ["gallery.example"],
                "DOWNLOAD_MAXSIZE": limit,
                "DOWNLOAD_TIMEOUT": 1.0,
            }
            client = Client.from_crawler(SimpleNamespace(settings=Settings(values)))
            try:
                url = f"{scheme}://127.0.0.1:{port}/a.png"
                return await client.download_request(Request(url, meta=meta))
            finally:
                await client.close()

    return asyncio.run(ask())


def speaker(*parts: bytes, heard: list[bytes] | None = None, sent: list[int] | None = None) -> Say:
    """Says its parts, one after another, as long as somebody listens."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            request = await reader.readuntil(b"\r\n\r\n")
            if heard is not None:
                heard.append(request)
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    if sent is not None:
                        sent.append(len(part))
            except ConnectionError:
                pass

    return say


def test_an_answer_is_what_was_said() -> None:
    heard: list[bytes] = []
    response = asked(
        speaker(HEAD + b"ETag: x\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 3\r\n\r\nabc", heard=heard)
    )
    assert (response.status, response.body, response.headers.getlist("X-A")) == (
        200, b"abc", [b"1", b"2"],
    )  # fmt: skip
    assert b"cookie" not in heard[0].lower()


def test_a_private_literal_is_refused_where_it_is_connected_to() -> None:
    heard: list[bytes] = []
    with pytest.raises(exceptions.DownloadConnectionRefusedError):
        asked(speaker(HEAD, heard=heard), listed=False)
    assert heard == []


def test_a_claimed_size_ends_it_before_the_body() -> None:
    sent: list[int] = []
    with pytest.raises(exceptions.DownloadCancelledError, match="10001 bytes, at most 10000"):
        asked(speaker(HEAD + b"Content-Length: 10001\r\n\r\n", sent=sent))


def test_a_body_without_end_is_left() -> None:
    sent: list[int] = []
    with pytest.raises(exceptions.DownloadCancelledError, match="at most 10000"):
        asked(speaker(HEAD + b"\r\n", *[bytes(65536)] * 2000, sent=sent))
    assert len(sent) < 1000


def test_time_is_for_the_whole_answer() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            writer.write(HEAD + b"Content-Length: 100\r\n\r\n")
            for _ in range(100):
                writer.write(b"x")
                await asyncio.sleep(0.1)

    with pytest.raises(exceptions.DownloadTimeoutError, match="1 s"):
        asked(drip)


def test_a_body_that_is_cut_is_none() -> None:
    with pytest.raises(exceptions.ResponseDataLossError):
        asked(speaker(HEAD + b"Content-Length: 100\r\n\r\nabc"))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        HEAD + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
        HEAD + b"X-A: 1\r\n" * 300 + b"\r\n",
    ],
)
def test_what_is_not_http_is_no_answer(head: bytes) -> None:
    with pytest.raises(exceptions.DownloadFailedError):
        asked(speaker(head))


def test_what_the_head_reserves_is_not_read() -> None:
    """20 MB follow; the server gets rid of what sockets hold, and no more."""
    sent: list[int] = []

    async def check(request: Request, headers: Headers) -> None:
        assert request.url.endswith("/a.png")
        assert headers["X-Robots-Tag"] == b"noai"
        raise Refused(reason="opt_out", detail="noai", asked=True)

    with pytest.raises(Refused, match="noai"):
        asked(
            speaker(HEAD + b"X-Robots-Tag: noai\r\n\r\n", *[bytes(65536)] * 320, sent=sent),
            limit=10**9,
            meta={BEFORE_BODY: check},
        )
    assert len(sent) < 320


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's, signed by nobody."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with pytest.raises(exceptions.DownloadConnectionRefusedError, match="certificate"):
        asked(speaker(HEAD, heard=heard), scheme="https", context=certificate(tmp_path))
    assert heard == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert asked(speaker(HEAD + b"Content-Length: 2\r\n\r\nok")).body == b"ok"
