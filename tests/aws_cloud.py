"""AWS over HTTP for tests: moto's server, with what moto lacks played here.

Played: invoking functions and endpoints (:class:`cloud_container.Container`), UpdateEndpoint, and
numbers of published versions that are never used twice.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote

import boto3
from moto.awslambda.exceptions import UnknownAliasException, UnknownFunctionException
from moto.awslambda.models import LambdaStorage
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from cloud_container import Container
from lora_factory.contracts.cloud import AwsAccess

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "releases"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
IMAGE = f"{REGISTRY}/lora-factory/lambda:1.0"
SERVER_IMAGE = f"{REGISTRY}/lora-factory/server:1.0"
READS = re.compile(r"^(Describe|Get|List|BatchGet)")
PUBLISH = LambdaStorage.publish_version
Start = Callable[..., Any]


class AwsCloud:
    """One AWS, empty but for a bucket, a role and an image."""

    def __init__(self) -> None:
        self.changes_left: int | None = None
        self.denied = False
        self.later: list[tuple[str, Any]] = []
        """Functions that were invoked without waiting: name or ARN, event."""
        self._turn = itertools.count()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.access = AwsAccess(key="test", secret="test", region=REGION, endpoint=self.url)
        self.container = Container(access=self.access)

    @contextmanager
    def running(self) -> Iterator[AwsCloud]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            self._fill()
            with patch.object(LambdaStorage, "publish_version", _publish):
                yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def _fill(self) -> None:
        import requests

        requests.post(f"{self.url}/moto-api/reset", timeout=30)
        self.client("s3").create_bucket(Bucket=BUCKET)
        trust = {"Version": "2012-10-17", "Statement": []}
        role = self.client("iam").create_role(
            RoleName="factory", AssumeRolePolicyDocument=json.dumps(trust)
        )
        self.role = role["Role"]["Arn"]
        ecr = self.client("ecr")
        for name in ("lambda", "server"):
            ecr.create_repository(repositoryName=f"lora-factory/{name}")
            manifest = {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {"size": 1, "digest": f"sha256:{name}"},
                "layers": [],
            }
            ecr.put_image(
                repositoryName=f"lora-factory/{name}",
                imageManifest=json.dumps(manifest),
                imageTag="1.0",
            )

    @property
    def machines(self) -> dict[str, str]:
        """Settings of aws-sagemaker; moto knows no instances of newer kinds."""
        return {"image": SERVER_IMAGE, "role": self.role, "instance": "ml.g4dn.xlarge"}

    def live(self, target: str, service: str) -> str | None:
        """Version that users get, drawn with as they do."""
        if target == "aws-sagemaker":
            endpoint = get_backend("sagemaker")[ACCOUNT][REGION].endpoints.get(service)
            return self.container.note(self._served(service)).version if endpoint else None
        backend = get_backend("lambda")[ACCOUNT][REGION]
        try:
            alias = backend.get_alias("live", service)
        except (UnknownAliasException, UnknownFunctionException):
            return None
        values = backend.get_function(service, alias.function_version).environment_vars
        return self.container.note(values).version

    def state(self) -> Any:
        """All that there is, without times and ids."""
        functions = get_backend("lambda")[ACCOUNT][REGION]
        found: dict[str, Any] = {}
        for name, entry in functions._lambdas._functions.items():
            numbers = [(fn.version, fn.description) for fn in entry["versions"]]
            aliases = [
                (a.name, a.function_version, a.routing_config)
                for a in functions._lambdas._get_function_aliases(name).values()
            ]
            found[name] = (numbers, aliases, entry["latest"].environment_vars)
        machines = get_backend("sagemaker")[ACCOUNT][REGION]
        found |= {name: e.endpoint_config_name for name, e in machines.endpoints.items()}
        found |= {"configs": sorted(machines.endpoint_configs), "models": sorted(machines._models)}
        pages = self.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return found, [(entry["Key"], entry["ETag"]) for entry in pages]

    # -- the WSGI app

    def _serve(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        drawing = path.endswith(("invocations", "async-invocations"))
        reads = environ["REQUEST_METHOD"] in {"GET", "HEAD"} or READS.match(target)
        if self.changes_left is not None and not path.startswith("/moto-api"):
            if self.changes_left <= 0:
                return _answer(start, 503, b"gone")
            self.changes_left -= not (reads or drawing)
        if self.denied:
            error = {"__type": "AccessDeniedException", "message": "not you"}
            return _answer(start, 403, json.dumps(error).encode())
        if drawing:
            return self._draw(path, environ, start)
        if target == "UpdateEndpoint":
            return self._update_endpoint(_body(environ), start)
        return list(self._app(environ, start))

    def _draw(self, path: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = _body(environ)
        if "/functions/" in path:
            name = unquote(path.split("/")[-2])
            if environ.get("HTTP_X_AMZ_INVOCATION_TYPE") == "Event":
                self.later.append((name, json.loads(body)))
                return _answer(start, 202, b"")
            qualifier = parse_qs(environ["QUERY_STRING"])["Qualifier"][0]
            event = json.loads(body)
            environment = self._function(name, qualifier)
            status, answer = self.container.answer(environment, event["body"].encode())
            told = {"statusCode": status, "body": answer.decode()}
            return _answer(start, 200, json.dumps(told).encode())
        return self._draw_later(path.split("/")[2], environ, start)

    def _function(self, name: str, qualifier: str) -> dict[str, str]:
        """Environment of a version; of an alias with weights, of each in turn."""
        backend = get_backend("lambda")[ACCOUNT][REGION]
        if not qualifier.isdigit():
            alias = backend.get_alias(qualifier, name)
            weights = (alias.routing_config or {}).get("AdditionalVersionWeights") or {}
            numbers = [alias.function_version, *weights]
            qualifier = numbers[next(self._turn) % len(numbers)]
        values: dict[str, str] = backend.get_function(name, qualifier).environment_vars
        return values

    def _draw_later(self, endpoint: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        s3 = self.client("s3")
        bucket, _, key = environ["HTTP_X_AMZN_SAGEMAKER_INPUTLOCATION"][5:].partition("/")
        asked = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        left, self.changes_left = self.changes_left, None  # what the service does itself
        status, answer = self.container.answer(self._served(endpoint), asked)
        name = "out" if status == 200 else "failed"
        s3.put_object(Bucket=bucket, Key=f"{key}.{name}", Body=answer)
        self.changes_left = left
        headers = {
            "X-Amzn-SageMaker-OutputLocation": f"s3://{bucket}/{key}.out",
            "X-Amzn-SageMaker-FailureLocation": f"s3://{bucket}/{key}.failed",
        }
        return _answer(start, 202, b'{"InferenceId": "1"}', headers)

    def _served(self, endpoint: str) -> dict[str, str]:
        """Environment of what an endpoint serves."""
        backend = get_backend("sagemaker")[ACCOUNT][REGION]
        config = backend.endpoint_configs[backend.endpoints[endpoint].endpoint_config_name]
        model = backend._models[config.production_variants[0]["ModelName"]]
        values: dict[str, str] = model.primary_container["Environment"]
        return values

    def _update_endpoint(self, body: bytes, start: Start) -> Iterable[bytes]:
        asked = json.loads(body)
        backend = get_backend("sagemaker")[ACCOUNT][REGION]
        endpoint = backend.endpoints[asked["EndpointName"]]
        assert asked["EndpointConfigName"] in backend.endpoint_configs
        endpoint.endpoint_config_name = asked["EndpointConfigName"]
        return _answer(start, 200, json.dumps({"EndpointArn": endpoint.arn}).encode())


def _publish(storage: LambdaStorage, name: str, description: str = "") -> Any:
    """moto numbers a version by how many there are; AWS never gives a number twice."""
    entry = storage._functions[name]
    before = list(entry["versions"])
    made = PUBLISH(storage, name, description)
    if made not in before:
        entry["highest"] = entry.get("highest", 0) + 1
        made.set_version(entry["highest"])
    return made


def _body(environ: dict[str, Any]) -> bytes:
    data: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(data)
    return data


def _answer(
    start: Start, status: int, body: bytes, headers: dict[str, str] | None = None
) -> list[bytes]:
    values = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    start(f"{status} OK", list((values | (headers or {})).items()))
    return [body]
