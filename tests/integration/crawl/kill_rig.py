"""Workers in processes of their own that are killed, over a site that is slow to answer.

What is tried is who gets which page, not what a page is about: instead of a model, a page's share
of one word is its score.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from crawl_rig import CONTEXT

from lora_factory.contracts.expansion import alone
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.frontier_redis import RedisFrontier
from lora_factory.crawl.frontier_sqlite import SqliteFrontier

TOPIC = "icons of animals"
TEXT = """
    drawn same manner black shapes white paper outline constant weight rounded corners just enough
    detail tell doughnut from wheel rooms gallery follow everyday subjects first land under water
    then food tools vehicles weather objects nothing here bought sold every picture made with
    patience care over many quiet winter evenings beside fire
"""
WORDS = TEXT.split()


class WordCount:
    """Scores without a model."""

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> Any:
        return np.array([[float("animals" in text)] * len(topics) for text in texts])


def bitmap(seed: int) -> bytes:
    """A PNG of its own."""
    import io

    from PIL import Image

    out = io.BytesIO()
    noise = random.Random(seed).randbytes(24 * 24 * 3)
    Image.frombytes("RGB", (24, 24), noise).save(out, "PNG")
    return out.getvalue()


class SlowSite:
    """``pages`` pages on ``hosts`` servers, each with a picture and links to some others.

    Picture ``n`` has the bytes of picture ``n % distinct``; ``distinct`` 0: pages have none.
    """

    def __init__(self, pages: int, hosts: int, seconds: float, distinct: int = 10**9) -> None:
        self.count, self.seconds = pages, seconds
        self.hits: Counter[str] = Counter()
        self.times: list[float] = []  # of the hits
        self._lock = threading.Lock()
        self._pictures = {n: bitmap(n) for n in range(min(pages, distinct))}
        self._distinct = distinct
        self._servers = [self._serve() for _ in range(hosts)]
        self.pages = {self.url(n) for n in range(pages)}

    def url(self, n: int, kind: str = "page") -> str:
        port = self._servers[n % len(self._servers)].server_port
        return f"http://127.0.0.1:{port}/{kind}/{n}" + (".png" if kind == "picture" else "")

    @property
    def distinct(self) -> int:
        """Pictures that differ."""
        return min(self.count, self._distinct)

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{server.server_port}" for server in self._servers)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        _, kind, name = [*path.split("/"), "", ""][:3]
        if kind == "picture":
            return 200, "image/png", self._pictures[int(name[:-4]) % self._distinct]
        if kind != "page":
            return 404, "text/plain", b""
        n = int(name)
        links = {(n * 3 + k) % self.count for k in range(1, 4)} | {(n + 1) % self.count}
        anchors = "".join(f'<a href="{self.url(m)}">icons of animals {m}</a> ' for m in links)
        words = random.Random(n).sample(WORDS, len(WORDS))
        picture = f"<img src='{self.url(n, 'picture')}' alt='animal {n}'>" if self._distinct else ""
        body = (
            f"<html><head><title>Icons of animals {n}</title></head><body><main><p>The animals "
            f"{' '.join(words)}.</p>{picture}</main>"
            f'{anchors}<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">'
            "CC0</a></body></html>"
        )
        return 200, "text/html", body.encode()

    def _serve(self) -> ThreadingHTTPServer:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = site._answer(self.path)
                if status == 200:
                    with site._lock:
                        site.hits[f"http://{self.headers['Host']}{self.path}"] += 1
                        site.times.append(time.monotonic())
                    time.sleep(site.seconds)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever asked may be dead
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *args: None  # type: ignore[method-assign,assignment]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@dataclass(frozen=True)
class SharedWork:
    """A crawl that several processes work on; ``redis`` empty: one, on a file."""

    folder: Path
    spec: CrawlSpec
    hosts: tuple[str, ...]
    redis: str = ""
    crawl: str = "crawl"
    lease: float = 3.0

    @property
    def settings(self) -> Settings:
        return Settings(
            store=(self.folder / "store").as_uri(),
            scratch=self.folder / "scratch",
            crawl_hosts=self.hosts,
            crawl_public=False,
            threads=1,
        )

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def frontier(self) -> Frontier:
        # Hosts nobody knows yet are the site's own here.
        limits = Limits(self.spec.max_pages, self.spec.max_images, 0.0, lease=self.lease)
        if self.redis:
            return RedisFrontier(self.redis, self.crawl, limits)
        return SqliteFrontier(self.folder / "frontier.sqlite", limits)

    def context(self, name: str) -> StageContext:
        out, scratch = self.folder / f"{name}-out", self.folder / f"{name}-scratch"
        for path in (out, scratch):
            path.mkdir(parents=True, exist_ok=True)
        return StageContext({}, out, scratch, self.settings)

    def start(self) -> tuple[ForkServerProcess, str]:
        """One more worker, and its name."""
        name, log = f"w{uuid4().hex[:8]}", str(self.folder / "log.txt")
        process = CONTEXT.Process(target=_work, args=(self, name, log))
        process.start()
        return process, name


def _work(shared: SharedWork, name: str, log: str) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    import logging

    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(message)s")
    from lora_factory.crawl import pump, web

    pump.BEAT = shared.lease / 6
    web.topic_classifier = lambda profile: WordCount()  # type: ignore[assignment]
    area = web.open_area(shared.settings, shared.crawl)
    expansion = alone(shared.spec.topics)
    web.work(shared.spec, expansion, shared.frontier(), area, name, shared.context(name))
