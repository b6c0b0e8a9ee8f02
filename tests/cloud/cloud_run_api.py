"""Cloud Run's API over real gRPC on loopback, spoken by the SDK's own messages; and its services.

What it refuses it refuses as the service documents it: traffic that isn't 100 percent, a stale
etag, deleting a revision that has traffic or was made last.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.cloud import run_v2
from google.cloud.run_v2.services.revisions.transports import RevisionsGrpcTransport
from google.cloud.run_v2.services.services.transports import ServicesGrpcTransport
from google.longrunning import operations_pb2
from google.protobuf import any_pb2

from cloud_container import Container
from lora_factory.deploy.gcp_cloud_run import Doors

READS = {"GetService", "ListRevisions"}
TOKEN = "token-for-"


class Refused(Exception):
    """Status and words of a refusal."""


class CloudRun:
    """One project's services, on two loopback servers: the API and what users ask."""

    def __init__(self) -> None:
        self.services: dict[str, run_v2.Service] = {}
        self.made: dict[str, run_v2.Revision] = {}
        self.container = Container()
        self.changes_left: int | None = None
        self.denied = False
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[CloudRun]:
        api = grpc.server(ThreadPoolExecutor(4))
        api.add_generic_rpc_handlers((_Handlers(self),))
        port = api.add_insecure_port("127.0.0.1:0")
        api.start()
        users = ThreadingHTTPServer(("127.0.0.1", 0), self._users())
        thread = threading.Thread(target=users.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{users.server_address[1]}"
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        try:
            yield self
        finally:
            self._channel.close()
            api.stop(None)
            users.shutdown()
            users.server_close()
            thread.join(10)

    def doors(self) -> Doors:
        """The SDK's clients over its own gRPC transport."""
        return Doors(
            run_v2.ServicesClient(transport=ServicesGrpcTransport(channel=self._channel)),
            run_v2.RevisionsClient(transport=RevisionsGrpcTransport(channel=self._channel)),
            lambda url: TOKEN + url,
        )

    # -- what users get

    def answer(self, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        name, _, tag = path.removesuffix("/v1/generate").strip("/").partition("/")
        service = next((s for n, s in self.services.items() if n.endswith(f"/{name}")), None)
        if service is None:
            return 404, b"not found"
        if token != f"Bearer {TOKEN}{service.uri}":
            return 403, b"forbidden"
        chosen = [t for t in service.traffic if (t.tag == tag if tag else t.percent)]
        target = chosen[next(self._count) % len(chosen)]
        revision = self.made[f"{service.name}/revisions/{target.revision}"]
        environment = {entry.name: entry.value for entry in revision.containers[0].env}
        return self.container.answer(environment, body)

    def live(self, service: str) -> str | None:
        found = next((s for n, s in self.services.items() if n.endswith(f"/{service}")), None)
        if found is None or found.annotations.get("lora-factory/promoted") != "true":
            return None
        main = max(found.traffic, key=lambda target: target.percent)
        revision = self.made[f"{found.name}/revisions/{main.revision}"]
        environment = {entry.name: entry.value for entry in revision.containers[0].env}
        return self.container.note(environment).version

    def state(self) -> Any:
        services = {
            name: (sorted((t.revision, t.percent, t.tag) for t in s.traffic), dict(s.annotations))
            for name, s in self.services.items()
        }
        return services, sorted(self.made)

    # -- the API

    def call(self, method: str, request: Any) -> Any:
        with self._lock:
            if self.denied:
                raise Refused(grpc.StatusCode.PERMISSION_DENIED, "not you")
            if self.changes_left is not None:
                if self.changes_left <= 0:
                    raise Refused(grpc.StatusCode.UNAVAILABLE, "gone")
                self.changes_left -= method not in READS
            handle: Callable[[Any], Any] = getattr(
                self, "_" + re.sub("(?<!^)(?=[A-Z])", "_", method).lower()
            )
            return handle(request)

    def _get_service(self, request: Any) -> Any:
        if request.name not in self.services:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no such service")
        return run_v2.Service.pb(self.services[request.name])

    def _create_service(self, request: Any) -> Any:
        name = f"{request.parent}/services/{request.service_id}"
        service = run_v2.Service(request.service)
        service.name = name
        return self._write(service)

    def _update_service(self, request: Any) -> Any:
        service = run_v2.Service(request.service)
        if service.etag != self.services[service.name].etag:
            raise Refused(grpc.StatusCode.ABORTED, "etag")
        return self._write(service)

    def _write(self, service: run_v2.Service) -> Any:
        revision = f"{service.name}/revisions/{service.template.revision}"
        if sum(target.percent for target in service.traffic) != 100:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "traffic is not 100 percent")
        names = {f"{service.name}/revisions/{target.revision}" for target in service.traffic}
        if names - self.made.keys() - {revision}:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "traffic to no revision")
        if revision not in self.made:
            self.made[revision] = run_v2.Revision(
                name=revision,
                containers=service.template.containers,
                create_time=datetime.fromtimestamp(next(self._count), UTC),
            )
            service.latest_created_revision = revision
        short = service.name.rpartition("/")[2]
        service.uri = f"{self.url}/{short}"
        service.traffic_statuses = [
            run_v2.TrafficTargetStatus(
                revision=target.revision,
                percent=target.percent,
                tag=target.tag,
                uri=f"{service.uri}/{target.tag}",
            )
            for target in service.traffic
        ]
        service.etag = str(next(self._count))
        self.services[service.name] = service
        return _done(run_v2.Service.pb(service))

    def _delete_service(self, request: Any) -> Any:
        service = self.services.pop(request.name)
        for name in [n for n in self.made if n.startswith(f"{request.name}/")]:
            del self.made[name]
        return _done(run_v2.Service.pb(service))

    def _list_revisions(self, request: Any) -> Any:
        if request.parent not in self.services:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no such service")
        found = [r for n, r in self.made.items() if n.startswith(f"{request.parent}/revisions/")]
        return run_v2.ListRevisionsResponse.pb(run_v2.ListRevisionsResponse(revisions=found))

    def _delete_revision(self, request: Any) -> Any:
        service = self.services[request.name.rpartition("/revisions/")[0]]
        used = {f"{service.name}/revisions/{target.revision}" for target in service.traffic}
        if request.name in used | {service.latest_created_revision}:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "serving, or made last")
        return _done(run_v2.Revision.pb(self.made.pop(request.name)))

    def _users(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                """Quiet."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                token = self.headers.get("authorization", "")
                status, answer = cloud.answer(self.path, token, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        return Handler


class _Handlers(grpc.GenericRpcHandler):
    """Every method of both services, by its name."""

    def __init__(self, cloud: CloudRun) -> None:
        self._cloud = cloud

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        kind = getattr(run_v2, f"{method}Request")

        def handle(request: Any, context: Any) -> Any:
            try:
                return self._cloud.call(method, request)
            except Refused as err:
                context.abort(*err.args)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=kind.deserialize,
            response_serializer=lambda message: message.SerializeToString(),
        )


def _done(message: Any) -> Any:
    """An operation that has ended."""
    response = any_pb2.Any()
    response.Pack(message)
    return operations_pb2.Operation(name="operations/1", done=True, response=response)
