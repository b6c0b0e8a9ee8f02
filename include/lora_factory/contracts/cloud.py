"""What the deployment tells about its clouds, and the note that a release carries to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import Sha256, Version
from lora_factory.contracts.specs import Name

NOTE = "lora_factory.json"
WEIGHTS = "lora.safetensors"
URI, DIGEST = "LORA_FACTORY_RELEASE", "LORA_FACTORY_RELEASE_SHA256"
"""Environment of whatever serves a release: its folder, and the sha256 of its note."""
Arn = Annotated[str, StringConstraints(pattern=r"^arn:[\w-]+:[\w-]+:[\w-]*:\d*:.+$")]


class ReleaseNote(Contract):
    """``lora_factory.json`` of an uploaded release, written last: what is served, and no more.

    Card and samples beside it may be made anew; that makes no other revision.
    """

    name: Name
    version: Version
    base: str = Field(min_length=1, max_length=64)
    profile: str = Field(description="Model profile that the base is of")
    trigger: str
    sha256: Sha256 = Field(description="Of lora.safetensors, which is verified before use")


class CloudJob(Contract):
    """``POST /v1/jobs`` and ``GET /v1/jobs/{id}`` of a function: a picture to fetch later."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    state: Literal["waiting", "done", "failed"]
    url: str = Field(description="Where the answer can be got for an hour, once it is there")


class AwsAccess(Contract):
    """Keys of targets on AWS; without them boto3's own chain (profile, role) counts."""

    key: str = Field(min_length=1)
    secret: SecretStr
    token: SecretStr | None = None
    region: str = Field(min_length=1)
    endpoint: str | None = Field(None, pattern=r"^https?://[^\s@]+$", description="Not AWS' own")


class LambdaSettings(Contract):
    """Target ``aws-lambda``."""

    image: str = Field(
        pattern=r"^[^/\s]+/[^:@\s]+[:@]\S+$", description="In ECR: <registry>/<repository>:<tag>"
    )
    role: Arn = Field(description="Execution role; reads the releases' bucket")
    memory: int = Field(10_240, ge=512, le=10_240, description="MB; CPUs grow with it")
    timeout: int = Field(900, ge=30, le=900, description="Seconds a picture may take")
    auth: str = Field("AWS_IAM", pattern=r"^(AWS_IAM|NONE)$", description="Of the function URL")


class SageMakerSettings(Contract):
    """Target ``aws-sagemaker``."""

    image: str = Field(pattern=r"^[^/\s]+/[^:@\s]+[:@]\S+$", description="In ECR")
    role: Arn
    instance: str = Field("ml.g5.xlarge", pattern=r"^ml\.[\w.-]+$")
    count: int = Field(1, ge=1, le=100)


class CloudRunSettings(Contract):
    """Target ``cloud-run``."""

    project: str = Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")
    location: str = Field(pattern=r"^[a-z0-9-]+$")
    image: str = Field(min_length=3, description="In Artifact Registry")
    account: str = Field("", description="Service account that the service runs as")
    gpu: str = Field("", description="Accelerator (nvidia-l4); empty: CPU alone")
    cpu: int = Field(4, ge=1, le=20)
    memory: str = Field("16Gi", pattern=r"^\d+[GM]i$")
    instances: int = Field(3, ge=1, le=1000, description="At most; none while nobody asks")


class AzureSettings(Contract):
    """Target ``azure``."""

    subscription: str = Field(pattern=r"^[0-9a-fA-F-]{36}$")
    group: str = Field(min_length=1, max_length=90)
    workspace: str = Field(min_length=1, max_length=33)
    image: str = Field(min_length=3, description="In Azure Container Registry")
    instance: str = Field("Standard_NC4as_T4_v3", pattern=r"^\w+$")
    count: int = Field(1, ge=1, le=50)
