"""Lambda's runtime API, played for a handler that runs under ``awslambdaric`` as in its image.

Spec: "Using the Lambda runtime API" (2018-06-01): the runtime asks for the next invocation, and
posts a response or an error.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "/2018-06-01/runtime/"


class LambdaRuntime:
    """One container of a function.

    Args:
        environment: what the function is told, beside what Lambda sets.
        timeout: seconds an invocation may take.
    """

    def __init__(self, environment: Mapping[str, str], timeout: float = 120.0) -> None:
        self._environment, self._timeout = environment, timeout
        self._asked: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: dict[str, queue.Queue[tuple[str, Any]]] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.function = "arn:aws:lambda:us-east-1:123456789012:function:lora-factory-icons:live"

    def invoke(self, event: Any) -> Any:
        """The handler's answer.

        Raises:
            RuntimeError: it raised.
        """
        identity = str(uuid.uuid4())
        self._answers[identity] = queue.Queue()
        self._asked.put((identity, json.dumps(event).encode()))
        kind, value = self._answers[identity].get(timeout=self._timeout)
        if kind == "error":
            raise RuntimeError(value["errorMessage"])
        return value

    @contextmanager
    def running(self, handler: str, log: Path) -> Iterator[LambdaRuntime]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        environment = dict(os.environ) | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_address[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": "lora-factory-icons",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "10240",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "awslambdaric", handler],
                env=environment | dict(self._environment),
                stdout=out,
                stderr=out,
            )
            try:
                yield self
            finally:
                self.process.terminate()
                self.process.wait(20)
                server.shutdown()
                server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                assert self.path == f"{VERSION}invocation/next"
                identity, event = runtime._asked.get()
                self.send_response(200)
                deadline = int((time.time() + runtime._timeout) * 1000)
                for name, value in {
                    "Lambda-Runtime-Aws-Request-Id": identity,
                    "Lambda-Runtime-Deadline-Ms": str(deadline),
                    "Lambda-Runtime-Invoked-Function-Arn": runtime.function,
                    "Content-Type": "application/json",
                    "Content-Length": str(len(event)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(event)

            def do_POST(self) -> None:
                body = json.loads(self._content() or b"null")
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                parts = self.path.removeprefix(VERSION).split("/")
                if parts[0] == "invocation":
                    kind = "error" if parts[2] == "error" else "response"
                    runtime._answers[parts[1]].put((kind, body))

            def _content(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

        return Handler
