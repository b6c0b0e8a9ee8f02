"""Cloud targets by name. A cloud's SDK is only imported when its target is opened."""

from __future__ import annotations

from collections.abc import Callable

from lora_factory.contracts.settings import Settings
from lora_factory.deploy.aws_lambda import LambdaRevisions
from lora_factory.deploy.aws_sagemaker import SageMakerRevisions
from lora_factory.deploy.azure_ml import AzureRevisions
from lora_factory.deploy.cloud import CloudTarget
from lora_factory.deploy.gcp_cloud_run import CloudRunRevisions
from lora_factory.deploy.releases import Releases
from lora_factory.deploy.revisions import Revisions
from lora_factory.errors import ConfigurationError

CLOUDS: dict[str, Callable[[Settings], Revisions]] = {
    "aws-lambda": LambdaRevisions,
    "aws-sagemaker": SageMakerRevisions,
    "cloud-run": CloudRunRevisions,
    "azure": AzureRevisions,
}


def cloud_target(
    name: str, settings: Settings, check_stop: Callable[[], None] = lambda: None
) -> CloudTarget:
    """A target in a cloud.

    Raises:
        ConfigurationError: it isn't set up, or its SDK isn't installed here.
    """
    if settings.releases is None:
        msg = f"target {name} needs LORA_FACTORY_RELEASES, the bucket that it takes releases from"
        raise ConfigurationError(msg)
    revisions = CLOUDS[name](settings)
    releases = Releases(settings.releases, settings.aws)
    return CloudTarget(revisions, releases, canary=settings.cloud_canary, check_stop=check_stop)
