"""Crawls in children of their own, and small web servers for them to visit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from crawl_rig import Crawl, WebServer

from valkey_server import ValkeyServer

TOPICS = ["icons of animals, food and objects", "icons of tools, vehicles and weather"]


@pytest.fixture(scope="session")
def new_crawl(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Crawl]:
    """Makes a crawl, not yet started: ``new_crawl(hosts=[…], seeds=[…], **spec)``."""

    def make(
        *, hosts: list[str] | None = None, folders: dict[str, Path] | None = None, **spec: Any
    ) -> Crawl:
        environment = {
            "LORA_FACTORY_CRAWL_HOSTS": ",".join(hosts or []),
            "LORA_FACTORY_CRAWL_PUBLIC": "false",
        }
        if folders:
            pairs = (f"{name}={path}" for name, path in folders.items())
            environment["LORA_FACTORY_FOLDERS"] = ",".join(pairs)
        folder = tmp_path_factory.mktemp("crawl")
        return Crawl(folder, {"topics": TOPICS, **spec}, environment)

    return make


@pytest.fixture(scope="session")
def new_server() -> Iterator[Callable[[], WebServer]]:
    """Starts web servers; all end with the session."""
    running: list[ThreadingHTTPServer] = []

    def make() -> WebServer:
        site = WebServer()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.hits.append(self.path)
                answer = site.answers.get(self.path, (404, {}, b"nothing here"))
                status, headers, body = answer() if callable(answer) else answer
                if self._unchanged(headers):
                    site.unchanged.append(self.path)
                    status, body = 304, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _unchanged(self, headers: dict[str, str]) -> bool:
                tag, modified = headers.get("ETag"), headers.get("Last-Modified")
                if tag and self.headers.get("If-None-Match"):  # RFC 9110, 13.2.2: it decides
                    return self.headers["If-None-Match"] == tag
                return bool(modified) and self.headers.get("If-Modified-Since") == modified

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        site.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return site

    yield make
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Redis-compatible server; crawls on it have ids of their own."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()
