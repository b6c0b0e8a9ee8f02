"""Target ``azure``: a managed online endpoint of Azure ML for each adapter name.

A revision is a deployment of the endpoint (blue/green); a request names one in a header before
it has traffic. Each deployment is machines that are paid while they are there: the live one and
the one before it stay, no others. The image is the factory's own server (bring your own
container), so there is no scoring script.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.cloud import DIGEST
from lora_factory.contracts.serving import GenerateRequest, GenerateResponse
from lora_factory.deploy.answers import ask
from lora_factory.deploy.revisions import Revision, service_name
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

MAX_NAME = 32
SHORT = 12
DEPLOYMENT = re.compile(r"v([0-9a-f]{8,12})-[0-9a-f]{8}")
TIMEOUT_MS = 180_000  # a request's, the most that Azure ML allows
READING = ("AZURE_STORAGE_ACCOUNT_NAME",)  # which account an az:// release is on
PORT = 8080


class AzureRevisions:
    """See :class:`lora_factory.deploy.revisions.Revisions`.

    Raises:
        ConfigurationError: ``LORA_FACTORY_AZURE`` is not set, or the SDK is not installed.
    """

    name, kept, splits = "azure", 2, True

    def __init__(self, settings: Settings, client: Any = None) -> None:
        if settings.azure is None:
            msg = "target azure needs LORA_FACTORY_AZURE=subscription=…,group=…,workspace=…,image=…"
            raise ConfigurationError(msg)
        self._own, self._prefix = settings.azure, settings.cloud_prefix
        try:
            from azure.ai.ml import MLClient, entities
            from azure.identity import DefaultAzureCredential
        except ImportError as err:
            msg = (
                "target azure needs azure-ai-ml: install requirements-cloud.txt in an "
                "environment of its own and set LORA_FACTORY_CLOUD_PYTHON to its interpreter"
            )
            raise ConfigurationError(msg) from err
        self._kinds = entities
        own = self._own
        with azure_errors("credentials"):
            self._ml = client or MLClient(
                DefaultAzureCredential(),
                own.subscription,
                own.group,
                own.workspace,
                enable_telemetry=False,
                show_progress=False,
            )

    def service(self, adapter: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return service_name(self._prefix, adapter, MAX_NAME)

    def check(self) -> None:
        """Azure itself looks for the image when a deployment is made."""

    def revisions(self, service: str) -> dict[str, str]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return {version: digest for version, (_, digest) in self._made(service).items()}

    def publish(self, service: str, revision: Revision) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        name = f"v{revision.version[:SHORT]}-{revision.digest[:8]}"
        if self._get(service) is None:
            made = self._kinds.ManagedOnlineEndpoint(name=service, auth_mode="key")
            with azure_errors(f"endpoint {service}"):
                self._ml.online_endpoints.begin_create_or_update(made).result()
        for there in self._listed(service):
            if there.name == name and there.provisioning_state == "Succeeded":
                return
        with azure_errors(f"deployment {name} of {service}"):
            self._ml.online_deployments.begin_create_or_update(
                self._deployment(service, name, revision)
            ).result()

    def traffic(self, service: str) -> dict[str, int]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        shares = {} if found is None else dict(found.traffic or {})
        matched = {DEPLOYMENT.fullmatch(name): share for name, share in shares.items()}
        return {own[1]: int(share) for own, share in matched.items() if own and int(share)}

    def shift(self, service: str, traffic: Mapping[str, int]) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        if found is None:
            if not traffic:
                return
            msg = f"endpoint {service} is gone; somebody else has deleted it"
            raise ReleaseError(msg)
        if self.traffic(service) == dict(traffic):
            return
        made = self._made(service)
        found.traffic = {made[version][0]: share for version, share in traffic.items()}
        with azure_errors(f"traffic of {service}"):
            self._ml.online_endpoints.begin_create_or_update(found).result()

    def invoke(
        self, service: str, version: str | None, request: GenerateRequest
    ) -> GenerateResponse:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        if found is None or not found.scoring_uri:
            msg = f"endpoint {service} has no address; somebody else has changed it"
            raise ReleaseError(msg)
        with azure_errors(f"keys of {service}"):
            key = self._ml.online_endpoints.get_keys(service).primary_key
        headers = {"authorization": f"Bearer {key}"}
        if version is not None:
            headers["azureml-model-deployment"] = self._made(service)[version][0]
        return ask(found.scoring_uri, request, headers, service)

    def delete(self, service: str, version: str) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`; the last takes all along."""
        made = self._made(service)
        with azure_errors(f"version {version} of {service}"):
            if version in made:
                self._ml.online_deployments.begin_delete(
                    name=made[version][0], endpoint_name=service
                ).result()
            if not made.keys() - {version} and self._get(service) is not None:
                self._ml.online_endpoints.begin_delete(name=service).result()

    def endpoint(self, service: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        return "" if found is None else str(found.scoring_uri)

    # -- helpers

    def _get(self, service: str) -> Any:
        from azure.core.exceptions import ResourceNotFoundError

        with azure_errors(f"endpoint {service}"):
            try:
                return self._ml.online_endpoints.get(service)
            except ResourceNotFoundError:
                return None

    def _listed(self, service: str) -> list[Any]:
        from azure.core.exceptions import ResourceNotFoundError

        with azure_errors(f"deployments of {service}"):
            try:
                return list(self._ml.online_deployments.list(endpoint_name=service))
            except ResourceNotFoundError:
                return []

    def _made(self, service: str) -> dict[str, tuple[str, str]]:
        """Version → name of its deployment, and digest."""
        found = {}
        for made in self._listed(service):
            matched = DEPLOYMENT.fullmatch(made.name)
            if matched:
                values = made.environment_variables or {}
                found[matched[1]] = (made.name, values.get(DIGEST, ""))
        return found

    def _deployment(self, service: str, name: str, revision: Revision) -> Any:
        kinds, own = self._kinds, self._own
        routes = {"liveness_route": "/healthz", "readiness_route": "/readyz"}
        routes["scoring_route"] = "/v1/generate"
        environment = kinds.Environment(
            name=f"{self._prefix}-server",
            image=own.image,
            inference_config={key: {"port": PORT, "path": path} for key, path in routes.items()},
        )
        values = revision.environment()
        values |= {key: os.environ[key] for key in READING if key in os.environ}
        return kinds.ManagedOnlineDeployment(
            name=name,
            endpoint_name=service,
            environment=environment,
            environment_variables=values,
            instance_type=own.instance,
            instance_count=own.count,
            request_settings=kinds.OnlineRequestSettings(request_timeout_ms=TIMEOUT_MS),
            readiness_probe=kinds.ProbeSettings(initial_delay=10, period=10, failure_threshold=60),
        )


@contextmanager
def azure_errors(what: str) -> Iterator[None]:
    """Turn what Azure's libraries raise into the factory's errors."""
    from azure.ai.ml.exceptions import MlException
    from azure.core import exceptions as azure

    try:
        yield
    except azure.ClientAuthenticationError as err:
        msg = f"Azure: {what}: {_line(err)}; set connection lora_factory_azure"
        raise ConfigurationError(msg) from err
    except azure.HttpResponseError as err:
        status = err.status_code or 0
        said = f"Azure: {what}: {_line(err)}"
        if status in {401, 403}:
            msg = f"{said}; correct connection lora_factory_azure, or its rights"
            raise ConfigurationError(msg) from err
        if status in {408, 409, 412, 429} or status >= 500:
            msg = f"{said}; try again later"
            raise ServiceUnavailable(msg) from err
        raise ReleaseError(said) from err
    except azure.AzureError as err:  # no answer at all
        msg = f"Azure: {what}: {_line(err)}; look at the network, try again"
        raise ServiceUnavailable(msg) from err
    except MlException as err:
        msg = f"Azure: {what}: {_line(err)}"
        raise ReleaseError(msg) from err


def _line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
