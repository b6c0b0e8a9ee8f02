"""A host that asks for a rest gets it from every worker, not only from the one that it told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from kill_rig import TOPIC, WORDS, SharedWork

from lora_factory.contracts.specs import CrawlSpec
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
PAGES, REST, BEFORE = 40, 4, 12


class BusySite:
    """Pages that link to all others; the ``BEFORE``-th is answered 429 with a Retry-After."""

    def __init__(self) -> None:
        self.times: list[tuple[float, str]] = []
        self.refused_at = 0.0
        self._lock = threading.Lock()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        number = path.removeprefix("/page/")
        if not number.isdigit():
            return 404, {}, b""
        with self._lock:
            self.times.append((time.monotonic(), path))
            if len(self.times) == BEFORE:
                self.refused_at = time.monotonic()
                return 429, {"Retry-After": str(REST)}, b""
        time.sleep(0.1)
        links = "".join(f'<a href="/page/{n}">icons of animals {n}</a> ' for n in range(PAGES))
        text = f"The animals {number} {' '.join(WORDS)}."
        html = f"<html><title>Icons of animals {number}</title><main><p>{text}</p></main>{links}"
        return 200, {"Content-Type": "text/html"}, html.encode()


@contextmanager
def serving(site: BusySite) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_two_workers_leave_a_busy_host_alone(tmp_path: Path, valkey: ValkeyServer) -> None:
    site = BusySite()
    with serving(site) as host:
        spec = CrawlSpec(
            topics=(TOPIC,), seeds=(f"http://{host}/page/0",), max_pages=PAGES,
            as_of=date(2026, 11, 24), min_entropy=3.0,
        )  # fmt: skip
        shared = SharedWork(tmp_path, spec, (host,), valkey.url, uuid4().hex, lease=30.0)
        workers = [shared.start() for _ in range(2)]
        for process, _ in workers:
            process.join(120)
            assert process.exitcode == 0, shared.log[-3000:]
    after = sorted(at - site.refused_at for at, _ in site.times if at > site.refused_at)
    # What was under way at that moment, eight at most; then nobody asks until the rest is over.
    during = [at for at in after if at < REST - 0.3]
    assert len(during) <= 8
    assert all(at < 1.5 for at in during), during
    assert {path for _, path in site.times} == {f"/page/{n}" for n in range(PAGES)}
    assert "Retry-After: 4" in shared.log
    reports = shared.log.count("waiting 4 s")
    assert reports == 1  # one worker was told, two left the host alone
