"""Target ``aws-lambda``: a container function for each adapter name.

A revision is a published version of the function, users get alias ``live``: its function URL.
A share of the traffic is the alias' additional version weight. The handler is
:mod:`lora_factory.serve.lambda_handler`. Lambda has no GPU: for small bases, or few steps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lora_factory.contracts.serving import GenerateRequest, GenerateResponse
from lora_factory.deploy.answers import drawn
from lora_factory.deploy.aws import aws_errors, clients, is_missing, pinned_image
from lora_factory.deploy.revisions import Revision, service_name
from lora_factory.errors import ConfigurationError, ReleaseError

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
ALIAS = "live"
PUBLISHED = "LORA_FACTORY_PUBLISHED"  # makes each published version differ from the one before
MAX_NAME = 64
MAX_STORAGE = 10_240  # MB of /tmp, where the release is kept


class LambdaRevisions:
    """See :class:`lora_factory.deploy.revisions.Revisions`.

    Raises:
        ConfigurationError: ``LORA_FACTORY_AWS_LAMBDA`` is not set.
    """

    name, kept, splits = "aws-lambda", 5, True

    def __init__(self, settings: Settings) -> None:
        if settings.aws_lambda is None:
            msg = "target aws-lambda needs LORA_FACTORY_AWS_LAMBDA=image=…,role=…"
            raise ConfigurationError(msg)
        self._own, self._prefix = settings.aws_lambda, settings.cloud_prefix
        with aws_errors("session"):
            client = clients(settings)
            self._lambda, self._ecr = client("lambda"), client("ecr")

    def service(self, adapter: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return service_name(self._prefix, adapter, MAX_NAME)

    def check(self) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        pinned_image(self._ecr, self._own.image)

    def revisions(self, service: str) -> dict[str, str]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return {version: digest for version, (_, digest) in self._numbers(service).items()}

    def publish(self, service: str, revision: Revision) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        if self.revisions(service).get(revision.version) == revision.digest:
            return
        image = pinned_image(self._ecr, self._own.image)
        values = {
            "Role": self._own.role,
            "MemorySize": self._own.memory,
            "Timeout": self._own.timeout,
            "EphemeralStorage": {"Size": MAX_STORAGE},
            "Environment": {"Variables": revision.environment() | {PUBLISHED: uuid4().hex}},
        }
        with aws_errors(f"function {service}"):
            if self._there(service):
                self._lambda.update_function_code(FunctionName=service, ImageUri=image)
                self._wait("function_updated_v2", service)
                self._lambda.update_function_configuration(FunctionName=service, **values)
                self._wait("function_updated_v2", service)
            else:
                self._lambda.create_function(
                    FunctionName=service, PackageType="Image", Code={"ImageUri": image}, **values
                )
                self._wait("function_active_v2", service)
            made = self._lambda.publish_version(
                FunctionName=service, Description=f"{revision.version} {revision.digest}"
            )
            self._wait("function_active_v2", service, Qualifier=made["Version"])

    def traffic(self, service: str) -> dict[str, int]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        alias = self._alias(service)
        if alias is None:
            return {}
        versions = {number: version for version, (number, _) in self._numbers(service).items()}
        others = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        shares = {number: round(100 * float(weight)) for number, weight in others.items()}
        shares[alias["FunctionVersion"]] = 100 - sum(shares.values())
        return {versions[number]: share for number, share in shares.items() if number in versions}

    def shift(self, service: str, traffic: Mapping[str, int]) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        with aws_errors(f"alias {ALIAS} of {service}"):
            if not traffic:
                if self._alias(service) is not None:
                    self._without_url(service)
                    self._lambda.delete_alias(FunctionName=service, Name=ALIAS)
                return
            if self.traffic(service) != dict(traffic):
                self._route(service, traffic)
        self._url(service)

    def invoke(
        self, service: str, version: str | None, request: GenerateRequest
    ) -> GenerateResponse:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        qualifier = ALIAS if version is None else self._numbers(service)[version][0]
        event = url_event("POST", "/v1/generate", request.model_dump_json(exclude_none=True))
        with aws_errors(f"invoking {service}:{qualifier}"):
            answer = self._lambda.invoke(
                FunctionName=service, Qualifier=qualifier, Payload=json.dumps(event).encode()
            )
            payload = answer["Payload"].read()
        if answer.get("FunctionError"):
            said = payload[:200].decode("utf-8", "replace")
            msg = f"smoke test: {service}:{qualifier} failed: {said}; its log says why"
            raise ReleaseError(msg)
        try:
            told = json.loads(payload)
            status, body = int(told["statusCode"]), str(told["body"]).encode()
        except (ValueError, KeyError, TypeError) as err:
            msg = f"smoke test: {service}:{qualifier} is no handler of the factory's"
            raise ReleaseError(msg) from err
        return drawn(service, status, body)

    def delete(self, service: str, version: str) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`; the last one takes all along."""
        numbers = self._numbers(service)
        with aws_errors(f"version {version} of {service}"):
            if version in numbers:
                self._lambda.delete_function(FunctionName=service, Qualifier=numbers[version][0])
            if not numbers.keys() - {version} and self._there(service):
                self._lambda.delete_function(FunctionName=service)

    def endpoint(self, service: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return f"{self._url(service).rstrip('/')}/v1/generate"

    # -- helpers

    def _there(self, service: str) -> bool:
        return self._or_none(self._lambda.get_function, service) is not None

    def _alias(self, service: str) -> Any:
        return self._or_none(self._lambda.get_alias, service, Name=ALIAS)

    def _or_none(self, call: Any, service: str, **more: str) -> Any:
        from botocore.exceptions import ClientError

        with aws_errors(f"function {service}"):
            try:
                return call(FunctionName=service, **more)
            except ClientError as err:
                if is_missing(err):
                    return None
                raise

    def _numbers(self, service: str) -> dict[str, tuple[str, str]]:
        """Version → number that Lambda gave it, and digest; the newest number of a version."""
        from botocore.exceptions import ClientError

        found: dict[str, tuple[str, str]] = {}
        pages = self._lambda.get_paginator("list_versions_by_function")
        with aws_errors(f"versions of {service}"):
            try:
                listed = [
                    made
                    for page in pages.paginate(FunctionName=service)
                    for made in page["Versions"]
                ]
            except ClientError as err:
                if not is_missing(err):
                    raise
                return found
        for made in listed:
            version, _, digest = made.get("Description", "").partition(" ")
            if made["Version"] != "$LATEST" and digest:
                found[version] = (made["Version"], digest)
        return found

    def _route(self, service: str, traffic: Mapping[str, int]) -> None:
        """Point the alias at the version with the most traffic; the others are its weights."""
        numbers = {version: number for version, (number, _) in self._numbers(service).items()}
        main, *others = sorted(traffic, key=lambda version: -traffic[version])
        weights = {numbers[version]: traffic[version] / 100 for version in others}
        values = {
            "FunctionName": service,
            "Name": ALIAS,
            "FunctionVersion": numbers[main],
            "RoutingConfig": {"AdditionalVersionWeights": weights},
        }
        if self._alias(service) is None:
            self._lambda.create_alias(**values)
        else:
            self._lambda.update_alias(**values)

    def _url(self, service: str) -> str:
        """The function URL of the alias; made where there is none."""
        found = self._or_none(self._lambda.get_function_url_config, service, Qualifier=ALIAS)
        if found is not None:
            return str(found["FunctionUrl"])
        with aws_errors(f"URL of {service}"):
            made = self._lambda.create_function_url_config(
                FunctionName=service, Qualifier=ALIAS, AuthType=self._own.auth
            )
            if self._own.auth == "NONE":
                self._lambda.add_permission(
                    FunctionName=service,
                    Qualifier=ALIAS,
                    StatementId="anybody",
                    Action="lambda:InvokeFunctionUrl",
                    Principal="*",
                    FunctionUrlAuthType="NONE",
                )
        return str(made["FunctionUrl"])

    def _without_url(self, service: str) -> None:
        if self._or_none(self._lambda.get_function_url_config, service, Qualifier=ALIAS):
            self._lambda.delete_function_url_config(FunctionName=service, Qualifier=ALIAS)

    def _wait(self, waiter: str, service: str, **more: str) -> None:
        self._lambda.get_waiter(waiter).wait(FunctionName=service, **more)


def url_event(method: str, path: str, body: str = "") -> dict[str, Any]:
    """A request as a function URL hands it to the handler (payload format 2.0)."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": path}},
        "body": body,
        "isBase64Encoded": False,
    }
