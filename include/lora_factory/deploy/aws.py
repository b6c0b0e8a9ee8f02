"""What the targets on AWS share: a session, images in ECR, and errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

ECR = re.compile(
    r"^(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.[^/]+/([^:@]+)(?::([^@]+)|@(sha256:[0-9a-f]+))$"
)
DENIED = re.compile(
    r"AccessDenied|NotAuthorized|UnrecognizedClient|InvalidClientToken|Expired|Signature"
)
BUSY = re.compile(
    r"Throttl|TooManyRequests|ResourceConflict|ResourceInUse|ServiceException|Timeout"
)
READ_TIMEOUT = 910  # a Lambda function may draw for 15 minutes


def clients(settings: Settings) -> Any:
    """A function that makes clients: by ``LORA_FACTORY_AWS``, or by boto3's own chain."""
    from boto3 import Session
    from botocore.config import Config

    access, config = settings.aws, Config(read_timeout=READ_TIMEOUT)
    if access is None:
        session = Session()
        return lambda service: session.client(service, config=config)
    session = Session(
        aws_access_key_id=access.key,
        aws_secret_access_key=access.secret.get_secret_value(),
        aws_session_token=access.token.get_secret_value() if access.token else None,
        region_name=access.region,
    )
    # Without one given, AWS_ENDPOINT_URL would count, which is the artifact store's.
    more = {"endpoint_url": access.endpoint} if access.endpoint else {}
    own = config.merge(Config(ignore_configured_endpoint_urls=True))
    return lambda service: session.client(service, config=own, **more)


def pinned_image(ecr: Any, image: str) -> str:
    """An image of ECR by its digest, so that a tag that is moved changes nothing that runs.

    Raises:
        ConfigurationError: it is in no registry of ECR, or not there.
    """
    found = ECR.match(image)
    if found is None:
        msg = f"image {image} is in no ECR registry, the only ones that AWS runs; push it there"
        raise ConfigurationError(msg)
    account, _, repository, tag, digest = found.groups()
    wanted = {"imageTag": tag} if tag else {"imageDigest": digest}
    with aws_errors(f"image {image}", missing="push it, or correct its name"):
        details = ecr.describe_images(
            registryId=account, repositoryName=repository, imageIds=[wanted]
        )["imageDetails"]
    return f"{image.split('/', maxsplit=1)[0]}/{repository}@{details[0]['imageDigest']}"


@contextmanager
def aws_errors(what: str, missing: str = "") -> Iterator[None]:
    """Turn boto3's exceptions into the factory's; ``missing``: what to do where it isn't there."""
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as err:
        raise _of_answer(err.response, what, missing) from err
    except boto.WaiterError as err:
        if "Error" in err.last_response:
            raise _of_answer(err.last_response, what, missing) from err
        msg = f"AWS: {what}: {_line(err)}"
        if "Max attempts exceeded" in msg:  # what was begun goes on; the next run waits for it
            raise ServiceUnavailable(msg) from err
        raise ReleaseError(msg) from err
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.NoRegionError) as err:
        msg = f"AWS: {_line(err)}; set LORA_FACTORY_AWS or Airflow connection lora_factory_aws"
        raise ConfigurationError(msg) from err
    except boto.ParamValidationError as err:
        msg = f"AWS: {what}: {_line(err)}"
        raise ReleaseError(msg) from err
    except boto.BotoCoreError as err:
        msg = f"AWS: {what}: no answer ({_line(err)}); look at the network, try again"
        raise ServiceUnavailable(msg) from err


def is_missing(err: Any) -> bool:
    """Whether a ClientError says that what was named is not there."""
    return _is_missing(err.response)


def _is_missing(response: Any) -> bool:
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    # SageMaker has no code of its own for it
    return "NotFound" in code or (code == "ValidationException" and "Could not find" in message)


def _of_answer(response: Any, what: str, missing: str) -> Exception:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", "")).splitlines()
    said = f"AWS: {what}: {code}: {(message or [''])[0][:200]}"
    if missing and _is_missing(response):
        return ConfigurationError(f"{said}; {missing}")
    if DENIED.search(code):
        return ConfigurationError(f"{said}; correct the keys or their rights")
    if BUSY.search(code) or meta.get("HTTPStatusCode", 0) >= 500:
        return ServiceUnavailable(f"{said}; try again later")
    return ReleaseError(said)


def _line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0][:200]
