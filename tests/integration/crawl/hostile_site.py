"""A server that speaks HTTP as badly as it is told to, and what it says."""

from __future__ import annotations

import gzip
import io
import random
import socket
import socketserver
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import brotli
from backports import zstd
from PIL import Image

Speaker = Callable[[socket.socket], None]
PROSE = (
    "Welcome to a small collection of emoji icons. Everything here was drawn in the same manner: "
    "black shapes on white paper, an outline of constant weight, rounded corners, and just enough "
    "detail to tell a doughnut from a wheel. The rooms of the gallery follow everyday subjects, "
    "animals first, on land and under water, then food, tools, vehicles, weather and objects."
)
LICENCE = '<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>'
INFLATED = b"<p>icons</p>" * 500_000  # 6 MB; a page may have 4


def page(content: str = "", head: str = "") -> str:
    """A page on topic."""
    return (
        f"<html><head><title>Icons of animals, food and objects</title>{head}</head>"
        f"<body><p>{PROSE}</p>{content}{LICENCE}</body></html>"
    )


def anchors(*urls: str) -> str:
    """Links that every scorer follows."""
    found = "".join(f'<a href="{url}">more icons of animals and food</a>' for url in urls)
    return f"<nav>{found}</nav>"


def answer(
    body: bytes | str = b"",
    kind: str = "text/html",
    *headers: str,
    status: str = "200 OK",
    length: int | None = None,
) -> bytes:
    """A response; ``length`` lies about the body's."""
    data = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(data) if length is None else length}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


def moved(where: str) -> bytes:
    """A redirect."""
    return answer(b"", "text/html", f"Location: {where}", status="302 Found")


def packed(body: bytes, encoding: str, kind: str = "text/html") -> bytes:
    """A response of encoded bytes."""
    return answer(body, kind, f"Content-Encoding: {encoding}")


def picture(seed: int, kind: str = "PNG", side: int = 32) -> bytes:
    """An image of its own."""
    out = io.BytesIO()
    noise = random.Random(seed).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), noise).save(out, kind)
    return out.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    """A PNG that claims to be as large as it is told."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gray_bomb(side: int) -> bytes:
    """A valid gray PNG of ``side``² pixels, all black."""
    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, data=data)


def text_bomb() -> bytes:
    """A small PNG whose comment inflates to 64 MB."""
    comment = b"Comment\x00\x00" + zlib.compress(bytes(64 * 1024**2), 9)
    row = zlib.compress(bytes(33 * 32))
    return png(32, 32, _chunk(b"zTXt", comment), data=row)


def slowly(data: bytes, every: float = 0.25) -> Speaker:
    """A byte at a time."""

    def speak(peer: socket.socket) -> None:
        for byte in data:
            peer.sendall(bytes([byte]))
            time.sleep(every)

    return speak


def for_ever(head: bytes, part: bytes, limit: int = 400 * 1024**2) -> Speaker:
    """The same again until the other side has enough."""

    def speak(peer: socket.socket) -> None:
        peer.sendall(head)
        for _ in range(limit // len(part)):
            peer.sendall(part)

    return speak


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><html><body><p>&j;</p></body></html>"
)
LARGE = {"too_large", "timeout"}  # whichever comes first on a busy machine
BROKEN = {"unreachable", "truncated"}
NO_TEXT = {"low_entropy", "word_length", "not_html", "unparsable"}
ELSEWHERE = {"host_not_allowed", "http_error", "unreachable"}
# path → what is said, and the reasons of which the audit must give one
PAGES: dict[str, tuple[bytes | Speaker, set[str]]] = {
    "/bomb/gzip": (packed(gzip.compress(INFLATED), "gzip"), {"too_large"}),
    "/bomb/gzip-twice": (
        packed(gzip.compress(gzip.compress(INFLATED)), "gzip, gzip"), {"too_large"}),
    "/bomb/deflate": (packed(zlib.compress(INFLATED), "deflate"), {"too_large"}),
    "/bomb/brotli": (packed(brotli.compress(INFLATED), "br"), {"too_large"}),
    "/bomb/zstd": (packed(zstd.compress(INFLATED), "zstd"), {"too_large"}),
    "/bomb/laughs": (answer(LAUGHS, "application/xhtml+xml"), {"low_entropy"}),
    "/packed/not": (packed(page().encode(), "gzip"), {"truncated", "unreachable", "corrupt"}),
    "/packed/unknown": (packed(page().encode(), "x-evil"), {"", "not_html"}),
    "/long/endless": (for_ever(HEAD + b"\r\n", b"<p>icons</p>" * 5000), LARGE),
    "/long/chunks": (for_ever(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), LARGE),
    "/long/claimed": (answer(b"x", length=10**15), {"too_large"}),
    "/long/headers": (for_ever(HEAD, b"X-Padding: 1\r\n" * 5000), LARGE | BROKEN),
    "/long/header": (HEAD + b"X-A: " + b"a" * 10**6 + b"\r\n\r\n", BROKEN),
    "/long/cookies": (
        answer(page(), "text/html", *(f"Set-Cookie: c{n}={'x' * 99}" for n in range(200))), {""}),
    "/long/continue": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99), LARGE),
    "/slow/body": (slowly(answer(page())), {"timeout"}),
    "/slow/silent": (lambda peer: time.sleep(30), {"timeout"}),
    "/cut/length": (answer(page(), length=9999), {"truncated"}),
    "/cut/short": (answer(page(), length=40), BROKEN | {"low_entropy"}),
    "/cut/chunk": (CHUNKED + b"ffff\r\n<p>icons", BROKEN),
    "/bad/chunk": (CHUNKED + b"zz\r\nicons\r\n0\r\n\r\n", BROKEN),
    "/bad/chunk-size": (CHUNKED + b"f" * 40 + b"\r\nicons", BROKEN | {"too_large"}),
    "/bad/status": (b"HTTP/1.1 banana\r\n\r\nicons", {"unreachable"}),
    "/bad/http09": (page().encode(), {"unreachable"}),
    "/bad/negative": (answer(page(), length=-1), {"unreachable"}),
    "/bad/two-lengths": (
        answer(page(), "text/html", "Content-Length: 3"), BROKEN),
    "/bad/code": (answer(page(), status="999 Whatever"), {"http_error"}),
    "/bad/nothing": (b"", {"unreachable"}),
    "/text/nulls": (answer(b"\x00" * 5000 + b"<p>\x00icons"), NO_TEXT),
    "/text/utf16": (answer(page(), "text/html; charset=utf-16"), NO_TEXT),
    "/text/utf7": (answer(page(), "text/html; charset=utf-7"), {"", "low_entropy"}),
    "/text/nonsense": (answer(page(), "text/html; charset=nonsense"), {""}),
    "/text/bytes": (answer(bytes(range(128, 256)) * 50), NO_TEXT),
    "/text/deep": (answer("<div>" * 100_000), {"low_entropy"}),
    "/text/links": (
        answer("".join(f"<a href='/never/{n}'>x</a>" for n in range(100_000))), {"low_entropy"}),
    "/text/attributes": (
        answer("<p " + " ".join(f"a{n}" for n in range(50_000)) + ">"), {"unparsable"}),
    "/text/json": (
        answer('<script type="application/ld+json">' + "[" * 99_999 + "</script>"), NO_TEXT),
    "/text/png": (answer(picture(7), "text/html"), NO_TEXT),
    "/turn/round": (moved("/turn/square"), {"too_many_redirects"}),
    "/turn/square": (moved("/turn/round"), {"too_many_redirects"}),
    "/turn/itself": (moved("/turn/itself"), {"too_many_redirects"}),
    "/turn/nowhere": (answer(b"", status="302 Found"), {"http_error"}),
    "/turn/script": (moved("javascript:alert(1)"), ELSEWHERE),
    "/turn/file": (moved("file:///etc/passwd"), ELSEWHERE),
    "/turn/data": (moved("data:text/html,x"), ELSEWHERE),
    "/turn/long": (moved("/" + "a" * 60_000), {"unreachable", "not_found", "truncated"}),
    "/refresh": (
        answer(page(head="<meta http-equiv=refresh content='0;url=http://127.0.0.1/'>"),
               "text/html", "Refresh: 0;url=http://127.0.0.1/"), {""}),
}  # fmt: skip
IMAGES: dict[str, tuple[bytes | Speaker, set[str]]] = {
    "/good.png": (answer(picture(1), "image/png"), {""}),
    "/kind.png": (answer(picture(2), "text/html"), {""}),
    "/gray30k.png": (answer(gray_bomb(30_000), "image/png"), {"too_many_pixels"}),
    "/claims.png": (answer(png(2**31 - 1, 2**31 - 1), "image/png"), {"too_many_pixels", "corrupt"}),
    "/text.png": (answer(text_bomb(), "image/png"), {"corrupt", "", "not_an_image"}),
    "/html.jpg": (answer(page(), "image/jpeg"), {"not_an_image"}),
    "/script.png": (
        answer("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "image/png"),
        {"not_an_image"}),
    "/drawn.jpg": (
        answer("<svg><script>alert(1)</script></svg>", "image/svg+xml"), {"not_an_image"}),
    "/polyglot.gif": (
        answer(b"GIF89a/*" + b"*/=alert(1)//" * 40, "image/gif"), {"corrupt", "too_many_pixels"}),
    "/phar.jpg": (
        answer(b"\xff\xd8\xff\xfe<?php system($_GET[0]);" * 30, "image/jpeg"), {"corrupt"}),
    "/cut.png": (answer(picture(3)[:-200], "image/png"), {"corrupt"}),
    "/short.png": (answer(picture(4), "image/png", length=100), BROKEN | {"corrupt"}),
    "/long.png": (answer(picture(5), "image/png", length=10**9), {"too_large"}),
    "/zip.png": (packed(gzip.compress(bytes(60 * 1024**2)), "gzip", "image/png"), {"too_large"}),
    "/thin.png": (answer(png(1, 60_000), "image/png"), {"too_small", "corrupt"}),
    "/slow.png": (slowly(answer(picture(8), "image/png")), {"timeout"}),
    "/endless.png": (
        for_ever(HEAD.replace(b"text/html", b"image/png") + b"\r\n", picture(9) * 20), LARGE),
    "/silent.png": (lambda peer: time.sleep(30), {"timeout"}),
    "/round.png": (moved("/round.png"), {"too_many_redirects"}),
    "/headers.png": (for_ever(HEAD, b"X-Padding: 1\r\n" * 5000), LARGE | BROKEN),
    "/nothttp.png": (picture(10), {"unreachable"}),
    "/hungup.png": (b"", {"unreachable"}),
    "/empty.png": (answer(b"", "image/png"), {"not_an_image", "corrupt"}),
    "/..%2F..%2Fetc%2Fpasswd.png": (answer(picture(6), "image/png"), {""}),
}  # fmt: skip


@dataclass
class HostileSite:
    """Serves raw bytes; 404 elsewhere."""

    answers: dict[str, bytes | Speaker] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    def start(self) -> socketserver.ThreadingTCPServer:
        """Serve until it is shut down."""
        site = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, IndexError):
                    site.speak(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        server = Server(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def speak(self, peer: socket.socket) -> None:
        """Answer one request, then hang up."""
        heard = b""
        while b"\r\n\r\n" not in heard:
            part = peer.recv(65536)
            if not part:
                return
            heard += part
        lines = heard.decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1]
        self.hits.append(path)
        self.cookies += [line for line in lines if line.lower().startswith("cookie:")]
        said = self.answers.get(path)
        if said is None:
            said = self.answers.get(path.partition("?")[0])
        if said is None:
            said = answer(b"nothing here", status="404 Not Found")
        if callable(said):
            said(peer)
        else:
            peer.sendall(said)
        with suppress(OSError):
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(1.0)
            peer.recv(1)
