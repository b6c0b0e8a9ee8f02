"""Azure ML's management API and an endpoint's scoring, on loopback; the SDK is led here.

What it refuses it refuses as the service documents it: traffic to a deployment that is not there,
or of more than 100 percent, and deleting a deployment that has traffic.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from azure.ai.ml import MLClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport

from cloud_container import Container

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
ARM = "https://management.azure.com"
KEY = "key-of-the-endpoint"
PATH = re.compile(
    r".*/workspaces/w(?:/onlineEndpoints/([^/]+)(?:/(deployments|listKeys))?(?:/([^/]+))?)?"
)


class Credential:
    """Any token will do."""

    def get_token(self, *scopes: str, **more: Any) -> AccessToken:
        return AccessToken("token", 9_999_999_999)


class Loopback(RequestsTransport):
    """The SDK's own transport, which asks this machine instead of Azure."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def send(self, request: Any, **more: Any) -> Any:
        request.url = request.url.replace(ARM, self._url)
        return super().send(request, **more)


class AzureMl:
    """One workspace."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, dict[str, Any]]] = {}
        self.environments: dict[str, Any] = {}
        self.container = Container()
        self.changes_left: int | None = None
        self.denied = False
        self._count = itertools.count()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[AzureMl]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def client(self) -> MLClient:
        return MLClient(
            Credential(),
            SUBSCRIPTION,
            "g",
            "w",
            transport=Loopback(self.url),
            enable_telemetry=False,
            show_progress=False,
            retry_total=0,
        )

    def live(self, service: str) -> str | None:
        traffic = self.endpoints.get(service, {}).get("properties", {}).get("traffic") or {}
        if not traffic:
            return None
        main = max(traffic, key=lambda name: traffic[name])
        return self.container.note(self._environment(service, main)).version

    def state(self) -> Any:
        shares = {n: e["properties"].get("traffic") for n, e in self.endpoints.items()}
        return shares, {name: sorted(made) for name, made in self.deployments.items()}

    def _environment(self, service: str, deployment: str) -> dict[str, str]:
        made = self.deployments[service][deployment]
        values: dict[str, str] = made["properties"]["environmentVariables"]
        return values

    # -- what users get

    def score(self, service: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if headers.get("authorization") != f"Bearer {KEY}":
            return 401, b"key"
        chosen = headers.get("azureml-model-deployment")
        if chosen is None:
            traffic = self.endpoints[service]["properties"].get("traffic") or {}
            names = [name for name, share in traffic.items() if share]
            chosen = names[next(self._count) % len(names)]
        return self.container.answer(self._environment(service, chosen), body)

    # -- the API

    def call(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        with self._lock:
            if self.denied:
                return 403, _error("AuthorizationFailed", "not you")
            if self.changes_left is not None:
                if self.changes_left <= 0:
                    return 503, _error("ServiceUnavailable", "gone")
                self.changes_left -= method in {"PUT", "PATCH", "DELETE"}
            if "/environments/" in path:
                return self._environments(method, path, body)
            found = PATH.fullmatch(path)
            assert found, path
            endpoint, kind, deployment = found.groups()
            if endpoint is None:
                return 200, {"id": path, "name": "w", "location": "westeurope", "properties": {}}
            if kind is None:
                return self._endpoint(method, path, endpoint, body)
            if endpoint not in self.endpoints:
                return 404, _error("ResourceNotFound", "no such endpoint")
            if kind == "listKeys":
                return 200, {"primaryKey": KEY, "secondaryKey": KEY}
            return self._deployment(method, path, (endpoint, deployment), body)

    def _environments(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "PUT":
            self.environments[path] = {**body, "id": path, "name": path.rpartition("/")[2]}
        if path not in self.environments:
            return 404, _error("NotFound", "no such environment")
        return 200, self.environments[path]

    def _endpoint(self, method: str, path: str, name: str, body: Any) -> tuple[int, Any]:
        if method == "PUT":
            traffic = body["properties"].get("traffic") or {}
            unknown = traffic.keys() - self.deployments.get(name, {}).keys()
            if unknown or sum(traffic.values()) not in {0, 100}:
                return 400, _error("BadRequest", f"traffic {traffic}")
            body["properties"] |= {
                "provisioningState": "Succeeded",
                "scoringUri": f"{self.url}/score/{name}",
            }
            self.endpoints[name] = {**body, "id": path, "name": name}
            self.deployments.setdefault(name, {})
        elif name not in self.endpoints:
            return 404, _error("ResourceNotFound", "no such endpoint")
        elif method == "DELETE":
            del self.endpoints[name], self.deployments[name]
            return 200, {}
        return 200, self.endpoints[name]

    def _deployment(
        self, method: str, path: str, names: tuple[str, str | None], body: Any
    ) -> tuple[int, Any]:
        endpoint, name = names
        made = self.deployments[endpoint]
        if name is None:
            return 200, {"value": list(made.values())}
        if method == "PUT":
            body["properties"]["provisioningState"] = "Succeeded"
            body["properties"]["scaleSettings"] = {
                "scaleType": "Default"
            }  # as the service fills in
            made[name] = {**body, "id": path, "name": name}
        elif name not in made:
            return 404, _error("ResourceNotFound", "no such deployment")
        elif method == "DELETE":
            if (self.endpoints[endpoint]["properties"].get("traffic") or {}).get(name):
                return 400, _error("BadRequest", "it has traffic")
            del made[name]
            return 200, {}
        return 200, made[name]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65_536  # head and body in one packet: no waiting for an acknowledgement

            def log_message(self, *args: Any) -> None:
                """Quiet."""

            def _any(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                if path.startswith("/score/"):
                    status, answer = cloud.score(path.removeprefix("/score/"), self.headers, data)
                else:
                    body = json.loads(data) if data else None
                    status, found = cloud.call(self.command, path, body)
                    answer = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _any  # noqa: N815

        return Handler


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
