"""The site both sides of a bench crawl, in a process of its own: prose pages and photographs.

    python tests/bench/crawl/rig/bench_site.py PAGES IMAGES LICENSED WAIT

prints its port; a page has IMAGES of them, those of the first LICENSED pages may be fetched, and
pages are answered after WAIT seconds.

The prose is the standard library's docstrings, so that every page is English, of its own words,
and at least 20 kB; the photographs are smooth noise, as JPEG. ``/stats`` says how
many of each were asked for and when, so that a crawl's rate is the server's observation.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import json
import random
import subprocess
import sys
import time
import urllib.request
import warnings
from contextlib import suppress
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any

MODULES = """
    argparse ast asyncio calendar collections concurrent.futures configparser contextlib csv
    dataclasses datetime decimal difflib email enum fractions functools gettext heapq html http
    imaplib inspect io ipaddress itertools json locale logging mailbox math multiprocessing
    numbers operator optparse os pathlib pdb pickle platform plistlib pprint random re sched
    selectors shelve shutil smtplib socket sqlite3 ssl statistics string subprocess tarfile
    tempfile textwrap threading tkinter token traceback types typing unittest urllib uuid
    wave weakref xml.dom zipfile
"""
LEAST = 20_000  # bytes of a page
LICENCE = '<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>'


def paragraphs() -> list[str]:
    """Paragraphs of English, none of them twice."""
    found: dict[str, None] = {}
    warnings.simplefilter("ignore")
    for name in MODULES.split():
        with suppress(ImportError):
            module = importlib.import_module(name)
            for thing in [module, *vars(module).values()]:
                for one in [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]:
                    for text in (inspect.getdoc(one) or "").split("\n\n"):
                        line = " ".join(text.split())
                        if len(line) > 120:
                            found.setdefault(line)
    return list(found)


def html(number: int, prose: list[str], pages: int, images: int, licensed: int) -> bytes:
    """A page of its own: navigation, an article with figures, a sidebar, a footer.

    Pages below ``licensed`` allow their images to be fetched.
    """
    dice = random.Random(number)
    links = "".join(
        f'<li><a href="/page/{dice.randrange(pages)}">More on {escape(dice.choice(prose)[:40])}</a>'
        for _ in range(30)
    )
    links += "".join(
        f'<li><a href="/page/{n}">Chapter {n}</a>'
        for n in (2 * number + 1, 2 * number + 2)
        if n < pages
    )
    article, size = [], 0
    while size < LEAST:
        text = f"<p>{escape(dice.choice(prose))}</p>"
        size += len(text)
        article.append(text)
    for place in range(images):
        name = number * images + place
        article.insert(
            dice.randrange(len(article)),
            f'<figure><img src="/image/{name}.jpg" alt="photograph {name}">'
            f"<figcaption>{escape(dice.choice(prose)[:90])}</figcaption></figure>",
        )
    licence = LICENCE if number < licensed else ""
    title = escape(dice.choice(prose)[:60])
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
        f"<style>body{{margin:0}}</style></head><body><header><h1>Documentation</h1></header>"
        f"<nav><ul>{links}</ul></nav><main><article><h2>{title}</h2>{''.join(article)}</article>"
        "</main><aside class=sidebar><p>See also</p></aside>"
        f"<footer>{licence}</footer></body></html>"
    ).encode()


def photograph(seed: int, side: int = 384) -> bytes:
    """A JPEG of its own, about 40 kB."""
    import numpy as np
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    fine = np.random.default_rng(seed + 1).integers(-12, 12, (side, side, 3))
    out = io.BytesIO()
    Image.fromarray((np.asarray(image) + fine).clip(0, 255).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


class Handler(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, and nothing that isn't needed."""

    answers: dict[str, tuple[str, bytes]]
    hits: dict[str, list[float]]
    wait = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.heard = transport, b""

    def data_received(self, data: bytes) -> None:
        self.heard += data
        while b"\r\n\r\n" in self.heard:
            head, _, self.heard = self.heard.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("latin-1")
            if self.wait and path.startswith("/page"):
                asyncio.get_running_loop().call_later(self.wait, self.answer, path)
            else:
                self.answer(path)

    def answer(self, path: str) -> None:
        if path == "/stats":
            kind, body, status = "application/json", json.dumps(self.hits).encode(), "200 OK"
        elif path in self.answers:
            (kind, body), status = self.answers[path], "200 OK"
            self.hits.setdefault(path.split("/")[1], []).append(time.monotonic())
        else:
            kind, body, status = "text/plain", b"", "404 Not Found"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def serve(pages: int, images: int, licensed: int, wait: float) -> None:
    prose = paragraphs()
    answers = {
        f"/page/{n}": ("text/html; charset=utf-8", html(n, prose, pages, images, licensed))
        for n in range(pages)
    }
    answers |= {f"/image/{n}.jpg": ("image/jpeg", photograph(n)) for n in range(licensed * images)}
    Handler.answers, Handler.hits, Handler.wait = answers, {}, wait
    server = await asyncio.get_running_loop().create_server(Handler, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


class Site:
    """The server, as a context."""

    def __init__(self, pages: int, images: int, licensed: int, wait: float = 0.0) -> None:
        numbers = [str(number) for number in (pages, images, licensed, wait)]
        command = [sys.executable, str(Path(__file__)), *numbers]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.host = f"127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def rate(self, what: str) -> float:
        """``page`` or ``image`` requests a second since the last look, first to last."""
        with urllib.request.urlopen(f"http://{self.host}/stats") as answer:
            times = json.load(answer)[what]
        new, self._seen = times[getattr(self, "_seen", 0) :], len(times)
        return (len(new) - 1) / (new[-1] - new[0])


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:4]), float(sys.argv[4])))
