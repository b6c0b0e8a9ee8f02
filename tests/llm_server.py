"""An OpenAI-compatible HTTP server on loopback whose answers a test writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "theme": ["pets", "animals"],
    "style": "flat icon",
    "school": "unknown",
    "keywords": ["dog", "puppy", "ears", "collar", "nose"],
    "caption": "a brown dog with a red collar",
    "confidence": 0.9,
}


@dataclass(frozen=True)
class Reply:
    """One HTTP answer. ``cut``: the connection closes half-way; ``after``: seconds to wait."""

    content: str = json.dumps(GOOD)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    cut: bool = False
    after: float = 0.0
    tokens: tuple[int, int] = (100, 20)

    def body(self, model: str) -> bytes:
        if self.status != 200:
            return json.dumps({"error": {"message": self.content, "type": "x"}}).encode()
        message = {"role": "assistant", "content": self.content}
        given, made = self.tokens
        answer = {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "finish_reason": self.finish, "message": message}],
            "usage": {
                "prompt_tokens": given,
                "completion_tokens": made,
                "total_tokens": given + made,
            },
        }
        return json.dumps(answer).encode()


def answer(**changes: object) -> Reply:
    """A good answer but for ``changes``."""
    return Reply(json.dumps(GOOD | changes))


@dataclass
class LlmServer:
    """What was asked, and the URL to ask at. ``reply``: request number, body → an answer."""

    url: str
    reply: Callable[[int, dict[str, Any]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: dict[str, Any], key: str) -> Reply:
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            number = len(self.asked) - 1
        reply = self.reply(number, body)
        time.sleep(reply.after)
        with self._lock:
            self._open -= 1
        return reply


@contextmanager
def llm_server(
    reply: Callable[[int, dict[str, Any]], Reply] | None = None,
) -> Iterator[LlmServer]:
    """A running server; without ``reply`` every answer is good."""
    server = LlmServer("", reply or (lambda _number, _body: Reply()))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = server.take(body, self.headers.get("Authorization", ""))
            data = found.body(body["model"])
            try:
                self.send_response(found.status)
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if found.cut else data)
            except OSError:  # the client gave up waiting
                self.close_connection = True
            if found.cut:
                self.close_connection = True

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
