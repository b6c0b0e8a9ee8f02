"""Buckets that releases lie on, by URL."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from lora_factory.contracts.cloud import AwsAccess
from lora_factory.store.artifacts import local_root, open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config

PATIENCE = timedelta(seconds=60)


def open_bucket(url: str, access: AwsAccess | None) -> ObjectStore:
    """An object store; keys that were given count before those of the environment.

    Raises:
        ConfigurationError: it can't be opened.
    """
    if access is None or not url.startswith("s3://"):
        return open_objects(url, local_root(url))
    from obstore.store import S3Store

    config: S3Config = {
        "access_key_id": access.key,
        "secret_access_key": access.secret.get_secret_value(),
        "region": access.region,
    }
    if access.endpoint:
        config["endpoint"] = access.endpoint
    if access.token is not None:
        config["session_token"] = access.token.get_secret_value()
    return S3Store.from_url(
        url,
        config=config,
        client_options={"allow_http": (access.endpoint or "").startswith("http://")},
        retry_config={"max_retries": 3, "retry_timeout": PATIENCE},
    )
