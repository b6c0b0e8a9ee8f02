"""Target ``aws-sagemaker``: an asynchronous endpoint on GPUs for each adapter name.

A revision is a model and an endpoint configuration of the same name; users get endpoint
``<service>``. Before it is promoted a revision runs on an endpoint of its own,
``<service>-candidate``, which goes once the real one is updated: for that time two instances
are paid. The update is blue/green, and SageMaker itself takes it back where the alarm of 5xx
answers rings. Requests and answers go through the releases' bucket.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from lora_factory.contracts.cloud import DIGEST
from lora_factory.contracts.serving import GenerateRequest, GenerateResponse
from lora_factory.deploy.answers import drawn
from lora_factory.deploy.aws import aws_errors, clients, is_missing, pinned_image
from lora_factory.deploy.revisions import Revision, service_name
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

MAX_NAME = 40  # of 63: version, part of the digest, or "-candidate" follow
SHORT = 12  # hex digits of a version in a name
LOOK = 0.5  # seconds between looks for an answer
PATIENCE = 900.0  # seconds; a GPU that starts may need ten minutes
BAKING = 60  # seconds that the old instances wait after an update, while the alarm is watched


class SageMakerRevisions:
    """See :class:`lora_factory.deploy.revisions.Revisions`.

    Raises:
        ConfigurationError: ``LORA_FACTORY_AWS_SAGEMAKER`` is not set, or releases are not on S3.
    """

    name, kept, splits = "aws-sagemaker", 5, False

    def __init__(self, settings: Settings) -> None:
        if settings.aws_sagemaker is None:
            msg = "target aws-sagemaker needs LORA_FACTORY_AWS_SAGEMAKER=image=…,role=…"
            raise ConfigurationError(msg)
        bucket = urlsplit(settings.releases or "")
        if bucket.scheme != "s3":
            msg = "target aws-sagemaker takes requests from S3: set LORA_FACTORY_RELEASES=s3://…"
            raise ConfigurationError(msg)
        self._own, self._prefix = settings.aws_sagemaker, settings.cloud_prefix
        self._bucket, self._folder = bucket.netloc, f"{bucket.path.strip('/')}/asked".strip("/")
        with aws_errors("session"):
            client = clients(settings)
            self._ecr, self._s3, self._alarms = client("ecr"), client("s3"), client("cloudwatch")
            self._sagemaker, self._runtime = client("sagemaker"), client("sagemaker-runtime")

    def service(self, adapter: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return service_name(self._prefix, adapter, MAX_NAME)

    def check(self) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        pinned_image(self._ecr, self._own.image)

    def revisions(self, service: str) -> dict[str, str]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        return {version: digest for version, (_, digest) in self._configs(service).items()}

    def publish(self, service: str, revision: Revision) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        name = f"{service}-{revision.version[:SHORT]}-{revision.digest[:8]}"
        with aws_errors(f"revision {name}"):
            if self._or_none("describe_model", ModelName=name) is None:
                self._sagemaker.create_model(
                    ModelName=name,
                    ExecutionRoleArn=self._own.role,
                    PrimaryContainer={
                        "Image": pinned_image(self._ecr, self._own.image),
                        "Environment": revision.environment(),
                    },
                )
            if self._or_none("describe_endpoint_config", EndpointConfigName=name) is None:
                self._sagemaker.create_endpoint_config(
                    EndpointConfigName=name,
                    ProductionVariants=[
                        {
                            "VariantName": "all",
                            "ModelName": name,
                            "InstanceType": self._own.instance,
                            "InitialInstanceCount": self._own.count,
                        }
                    ],
                    AsyncInferenceConfig={
                        "OutputConfig": {"S3OutputPath": f"s3://{self._bucket}/{self._folder}"}
                    },
                )
        if self._serving(service) != name:
            self._run(f"{service}-candidate", name)

    def traffic(self, service: str) -> dict[str, int]:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        serving = self._serving(service)
        found = [v for v, (name, _) in self._configs(service).items() if name == serving]
        return dict.fromkeys(found, 100)

    def shift(self, service: str, traffic: Mapping[str, int]) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        if not traffic:
            self._end(service)
        else:
            (version,) = traffic
            self._run(service, self._configs(service)[version][0])
        self._end(f"{service}-candidate")

    def invoke(
        self, service: str, version: str | None, request: GenerateRequest
    ) -> GenerateResponse:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        live = version is None or version in self.traffic(service)
        endpoint = service if live else f"{service}-candidate"
        key = f"{self._folder}/{uuid4().hex}.json"
        body = request.model_dump_json(exclude_none=True).encode()
        with aws_errors(f"endpoint {endpoint}"):
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)
            asked = self._runtime.invoke_endpoint_async(
                EndpointName=endpoint,
                ContentType="application/json",
                InputLocation=f"s3://{self._bucket}/{key}",
            )
            try:
                status, answer = self._wait(asked["OutputLocation"], asked.get("FailureLocation"))
            finally:
                self._s3.delete_object(Bucket=self._bucket, Key=key)
        return drawn(endpoint, status, answer)

    def delete(self, service: str, version: str) -> None:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        found = self._configs(service).get(version)
        if found is None:
            return
        name = found[0]
        if self._serving(f"{service}-candidate") == name:
            self._end(f"{service}-candidate")
        with aws_errors(f"revision {name}"):
            self._sagemaker.delete_endpoint_config(EndpointConfigName=name)
            if self._or_none("describe_model", ModelName=name) is not None:
                self._sagemaker.delete_model(ModelName=name)

    def endpoint(self, service: str) -> str:
        """See :class:`lora_factory.deploy.revisions.Revisions`."""
        url = str(self._runtime.meta.endpoint_url).rstrip("/")
        return f"{url}/endpoints/{service}/async-invocations"

    # -- endpoints

    def _run(self, endpoint: str, config: str) -> None:
        """Have an endpoint serve a configuration, and wait until it does."""
        with aws_errors(f"endpoint {endpoint}"):
            there = self._or_none("describe_endpoint", EndpointName=endpoint)
            if there is not None and there["EndpointStatus"] == "Failed":
                self._end(endpoint)
                there = None
            elif there is not None:
                self._in_service(endpoint)  # an update of a run that was killed ends first
                there = self._sagemaker.describe_endpoint(EndpointName=endpoint)
            if there is None:
                self._sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
            elif there["EndpointConfigName"] != config:
                self._update(endpoint, config)
            else:
                return
            self._in_service(endpoint)
            now = self._sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        if now != config:
            msg = f"endpoint {endpoint} took the update back: too many 5xx answers; see its log"
            raise ReleaseError(msg)

    def _update(self, endpoint: str, config: str) -> None:
        """Blue/green, taken back where the alarm rings; without one SageMaker never does."""
        alarm = f"{endpoint}-5xx"
        self._alarms.put_metric_alarm(
            AlarmName=alarm,
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            Dimensions=[
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": "all"},
            ],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="notBreaching",
        )
        self._sagemaker.update_endpoint(
            EndpointName=endpoint,
            EndpointConfigName=config,
            DeploymentConfig={
                "BlueGreenUpdatePolicy": {
                    "TrafficRoutingConfiguration": {
                        "Type": "ALL_AT_ONCE",
                        "WaitIntervalInSeconds": BAKING,
                    },
                    "TerminationWaitInSeconds": BAKING,
                },
                "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
            },
        )

    def _end(self, endpoint: str) -> None:
        with aws_errors(f"endpoint {endpoint}"):
            if self._or_none("describe_endpoint", EndpointName=endpoint) is not None:
                self._sagemaker.delete_endpoint(EndpointName=endpoint)
                self._sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=endpoint)

    def _in_service(self, endpoint: str) -> None:
        self._sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=endpoint)

    def _serving(self, endpoint: str) -> str | None:
        """Name of the configuration that an endpoint serves."""
        with aws_errors(f"endpoint {endpoint}"):
            found = self._or_none("describe_endpoint", EndpointName=endpoint)
        return None if found is None else str(found["EndpointConfigName"])

    # -- helpers

    def _configs(self, service: str) -> dict[str, tuple[str, str]]:
        """Version → name of its configuration, and digest."""
        own = re.compile(rf"{re.escape(service)}-([0-9a-f]{{8,12}})-[0-9a-f]{{8}}")
        found = {}
        with aws_errors(f"revisions of {service}"):
            pages = self._sagemaker.get_paginator("list_endpoint_configs")
            for page in pages.paginate(NameContains=service):
                for entry in page["EndpointConfigs"]:
                    name = entry["EndpointConfigName"]
                    matched = own.fullmatch(name)
                    model = self._or_none("describe_model", ModelName=name) if matched else None
                    if matched and model is not None:
                        values = model["PrimaryContainer"].get("Environment", {})
                        found[matched[1]] = (name, values.get(DIGEST, ""))
        return found

    def _or_none(self, call: str, **names: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return getattr(self._sagemaker, call)(**names)
        except ClientError as err:
            if is_missing(err):
                return None
            raise

    def _wait(self, done: str, failed: str | None) -> tuple[int, bytes]:
        """The answer, once it is in the bucket."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for place, status in ((done, 200), (failed, 500)):
                answer = self._take(place) if place else None
                if answer is not None:
                    return status, answer
            time.sleep(LOOK)
        msg = f"no answer in the bucket within {PATIENCE:.0f} s; is an instance running?"
        raise ServiceUnavailable(msg)

    def _take(self, place: str) -> bytes | None:
        """An object's bytes, which are removed; None: it is not there yet."""
        url = urlsplit(place)
        try:
            found = self._s3.get_object(Bucket=url.netloc, Key=url.path.strip("/"))
        except self._s3.exceptions.NoSuchKey:
            return None
        data: bytes = found["Body"].read()
        self._s3.delete_object(Bucket=url.netloc, Key=url.path.strip("/"))
        return data
