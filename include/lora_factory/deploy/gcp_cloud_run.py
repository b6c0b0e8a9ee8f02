"""Target ``cloud-run``: a Cloud Run service for each adapter name, with a GPU if one is set.

A revision is Cloud Run's own, tagged so that it can be asked before users get it. A new service
needs traffic from the start; its first revision has it at once, and counts as promoted only when
the service's annotation says so. Only those who may invoke the service (IAM) can ask it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.cloud import DIGEST
from lora_factory.contracts.serving import GenerateRequest, GenerateResponse
from lora_factory.deploy.answers import ANSWER_TIMEOUT, ask
from lora_factory.deploy.revisions import Revision, service_name
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
PROMOTED = "lora-factory/promoted"
MAX_NAME = 30  # tag, "---" and a suffix of Google's share a DNS label of 63 with it
SHORT = 12
CALL_TIMEOUT, MAKING_TIMEOUT = 60.0, 900.0  # seconds
CONCURRENCY = 8  # requests that one instance draws together
KEY = "GOOGLE_SERVICE_ACCOUNT_KEY"  # JSON of a key, as the object store reads it too


@dataclass(frozen=True)
class Doors:
    """Clients of the API, and a token for who asks a service."""

    services: Any
    revisions: Any
    token: Callable[[str], str]


class CloudRunRevisions:
    """See :class:`lora_factory.deploy.revisions.Revisions`.

    Raises:
        ConfigurationError: ``LORA_FACTORY_CLOUD_RUN`` is not set, or the SDK is not installed.
    """

    name, kept, splits = "cloud-run", 5, True

    def __init__(self, settings: Settings, doors: Doors | None = None) -> None:
        if settings.cloud_run is None:
            msg = "target cloud-run needs LORA_FACTORY_CLOUD_RUN=project=…,location=…,image=…"
            raise ConfigurationError(msg)
        self._own, self._prefix = settings.cloud_run, settings.cloud_prefix
        self._place = f"projects/{self._own.project}/locations/{self._own.location}/services"
        try:
            from google.cloud import run_v2
        except ImportError as err:
            msg = (
                "target cloud-run needs google-cloud-run: install requirements-cloud.txt in an "
                "environment of its own and set LORA_FACTORY_CLOUD_PYTHON to its interpreter"
            )
            raise ConfigurationError(msg) from err
        self._run = run_v2
        with google_errors("credentials"):
            self._doors = doors or open_doors()

    def service(self, adapter: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return service_name(self._prefix, adapter, MAX_NAME)

    def check(self) -> None:
        """Cloud Run itself looks for image and account when a revision is made."""

    def revisions(self, service: str) -> dict[str, str]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return {version: digest for version, (_, digest) in self._made(service).items()}

    def publish(self, service: str, revision: Revision) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        name = f"{service}-v{revision.version[:SHORT]}-{revision.digest[:8]}"
        found, there = self._get(service), self._made(service)
        made = there.get(revision.version, ("", ""))[0] == name
        if found is None:
            found = self._run.Service(
                template=self._template(name, revision), traffic=[self._target(name, 100)]
            )
            with google_errors(f"service {service}"):
                self._doors.services.create_service(
                    parent=self._place.rpartition("/")[0],
                    service=found,
                    service_id=service,
                    timeout=CALL_TIMEOUT,
                ).result(timeout=MAKING_TIMEOUT)
            return
        if made and name in {target.revision for target in found.traffic}:
            return
        if not made:
            found.template = self._template(name, revision)
        shares = _shares(found)
        self._update(found, {**shares, name: shares.get(name, 0)})

    def traffic(self, service: str) -> dict[str, int]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        if found is None or found.annotations.get(PROMOTED) != "true":
            return {}
        own = self._pattern(service)
        shares = {own.fullmatch(name): share for name, share in _shares(found).items() if share}
        return {matched[1]: share for matched, share in shares.items() if matched}

    def shift(self, service: str, traffic: Mapping[str, int]) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        if not traffic:
            if found is not None:
                with google_errors(f"service {service}"):
                    self._doors.services.delete_service(
                        name=found.name, timeout=CALL_TIMEOUT
                    ).result(timeout=MAKING_TIMEOUT)
            return
        if found is None:
            msg = f"service {service} is gone; somebody else has deleted it"
            raise ReleaseError(msg)
        if self.traffic(service) == dict(traffic):
            return
        made = self._made(service)
        shares = dict.fromkeys(_shares(found), 0)
        shares |= {made[version][0]: share for version, share in traffic.items()}
        found.annotations[PROMOTED] = "true"
        self._update(found, shares)

    def invoke(
        self, service: str, version: str | None, request: GenerateRequest
    ) -> GenerateResponse:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        if found is None:
            msg = f"service {service} is gone; somebody else has deleted it"
            raise ReleaseError(msg)
        url = str(found.uri)
        if version is not None:
            tags = {status.tag: status.uri for status in found.traffic_statuses}
            url = tags.get(f"v{version[:SHORT]}", "")
        if not url:
            msg = f"service {service} has no address for {version}; deploy it again"
            raise ReleaseError(msg)
        with google_errors(f"service {service}"):
            # The audience is the service's own address, whatever the tag
            headers = {"authorization": f"Bearer {self._doors.token(str(found.uri))}"}
        return ask(f"{url}/v1/generate", request, headers, service)

    def delete(self, service: str, version: str) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`.

        Cloud Run keeps the revision that was made last; it gets no traffic and costs nothing.
        """
        from google.api_core import exceptions as google

        found, made = self._get(service), self._made(service).get(version)
        if found is None or made is None:
            return
        shares = _shares(found)
        if made[0] in shares:
            del shares[made[0]]
            self._update(found, shares)
        with google_errors(f"revision {made[0]}"):
            try:
                self._doors.revisions.delete_revision(
                    name=f"{found.name}/revisions/{made[0]}", timeout=CALL_TIMEOUT
                ).result(timeout=MAKING_TIMEOUT)
            except (google.FailedPrecondition, google.InvalidArgument) as err:
                log.info("revision %s stays, without traffic: %s", made[0], err.message)

    def endpoint(self, service: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._get(service)
        return "" if found is None else f"{found.uri}/v1/generate"

    # -- helpers

    def _get(self, service: str) -> Any:
        from google.api_core import exceptions as google

        with google_errors(f"service {service}"):
            try:
                return self._doors.services.get_service(
                    name=f"{self._place}/{service}", retry=None, timeout=CALL_TIMEOUT
                )
            except google.NotFound:
                return None

    def _update(self, found: Any, shares: Mapping[str, int]) -> None:
        """Write a service; its etag makes one of two that write at once fail."""
        found.traffic = [self._target(name, share) for name, share in shares.items()]
        with google_errors(f"service {found.name.rpartition('/')[2]}"):
            self._doors.services.update_service(service=found, timeout=CALL_TIMEOUT).result(
                timeout=MAKING_TIMEOUT
            )

    def _target(self, revision: str, percent: int) -> Any:
        kind = self._run.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
        tag = revision.rsplit("-", 2)[1]
        return self._run.TrafficTarget(type_=kind, revision=revision, percent=percent, tag=tag)

    def _template(self, name: str, revision: Revision) -> Any:
        run, own = self._run, self._own
        limits = {"cpu": str(own.cpu), "memory": own.memory}
        more: dict[str, Any] = {}
        if own.gpu:
            limits["nvidia.com/gpu"] = "1"
            more["node_selector"] = run.NodeSelector(accelerator=own.gpu)
            more["gpu_zonal_redundancy_disabled"] = True
        probe = run.Probe(
            http_get=run.HTTPGetAction(path="/readyz", port=8080),
            period_seconds=10,
            failure_threshold=60,
            timeout_seconds=5,
        )
        container = run.Container(
            image=own.image,
            env=[run.EnvVar(name=k, value=v) for k, v in revision.environment().items()],
            resources=run.ResourceRequirements(limits=limits, startup_cpu_boost=True),
            ports=[run.ContainerPort(container_port=8080)],
            startup_probe=probe,
        )
        return run.RevisionTemplate(
            revision=name,
            containers=[container],
            scaling=run.RevisionScaling(min_instance_count=0, max_instance_count=own.instances),
            service_account=own.account,
            timeout={"seconds": int(ANSWER_TIMEOUT)},
            max_instance_request_concurrency=CONCURRENCY,
            **more,
        )

    def _made(self, service: str) -> dict[str, tuple[str, str]]:
        """Version → name of its newest revision, and digest."""
        from google.api_core import exceptions as google

        own = self._pattern(service)
        with google_errors(f"revisions of {service}"):
            try:
                listed = list(
                    self._doors.revisions.list_revisions(
                        parent=f"{self._place}/{service}", retry=None, timeout=CALL_TIMEOUT
                    )
                )
            except google.NotFound:
                return {}
        found = {}
        for made in sorted(listed, key=lambda made: made.create_time.timestamp()):
            name = made.name.rpartition("/")[2]
            matched = own.fullmatch(name)
            if matched:
                values = {entry.name: entry.value for entry in made.containers[0].env}
                found[matched[1]] = (name, values.get(DIGEST, ""))
        return found

    def _pattern(self, service: str) -> re.Pattern[str]:
        return re.compile(rf"{re.escape(service)}-v([0-9a-f]{{8,12}})-[0-9a-f]{{8}}")


def open_doors() -> Doors:
    """Clients by the key in ``GOOGLE_SERVICE_ACCOUNT_KEY``, or application default credentials."""
    import google.auth
    from google.auth.transport.requests import Request
    from google.cloud import run_v2
    from google.oauth2 import id_token, service_account

    key = os.environ.get(KEY, "")
    if not key:
        credentials, _ = google.auth.default()
        services = run_v2.ServicesClient(credentials=credentials)
        revisions = run_v2.RevisionsClient(credentials=credentials)
        return Doors(services, revisions, lambda url: str(id_token.fetch_id_token(Request(), url)))
    info = json.loads(key)
    whole = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials = service_account.Credentials.from_service_account_info(info, scopes=whole)

    def token(url: str) -> str:
        own = service_account.IDTokenCredentials.from_service_account_info(
            info, target_audience=url
        )
        own.refresh(Request())
        return str(own.token)

    return Doors(
        run_v2.ServicesClient(credentials=credentials),
        run_v2.RevisionsClient(credentials=credentials),
        token,
    )


@contextmanager
def google_errors(what: str) -> Iterator[None]:
    """Turn what Google's libraries raise into the factory's errors."""
    from google.api_core import exceptions as google
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except (google.Unauthenticated, google.PermissionDenied) as err:
        msg = f"Google Cloud: {what}: {_line(err)}; correct connection lora_factory_gcp"
        raise ConfigurationError(msg) from err
    except (google.ServerError, google.TooManyRequests, google.Aborted, google.RetryError) as err:
        msg = f"Google Cloud: {what}: {_line(err)}; try again later"
        raise ServiceUnavailable(msg) from err
    except google.GoogleAPIError as err:
        msg = f"Google Cloud: {what}: {_line(err)}"
        raise ReleaseError(msg) from err
    except TransportError as err:
        msg = f"Google Cloud: {what}: no answer ({_line(err)}); look at the network"
        raise ServiceUnavailable(msg) from err
    except (GoogleAuthError, ValueError) as err:
        msg = f"Google Cloud: {what}: {_line(err)}; set connection lora_factory_gcp"
        raise ConfigurationError(msg) from err


def _shares(found: Any) -> dict[str, int]:
    """Revision → percent, as the service's traffic says; untagged entries of one name add up."""
    shares: dict[str, int] = {}
    for target in found.traffic:
        shares[target.revision] = shares.get(target.revision, 0) + target.percent
    return shares


def _line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0][:200]
