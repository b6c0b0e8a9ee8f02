"""Airflow connections → the environment that the library reads its configuration from.

Each connection is optional; where it is missing the plain variable counts.

==========================  ==================================================
connection                  variables
==========================  ==================================================
``lora_factory_catalog``    ``LORA_FACTORY_CATALOG`` (type postgres)
``lora_factory_store``      ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
                            ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
                            ``AWS_ENDPOINT_URL`` (type aws)
``lora_factory_serve``      ``LORA_FACTORY_SERVE_URL``, ``LORA_FACTORY_SERVE_TOKEN``
                            (type http; the token is its password)
``lora_factory_llm``        ``LORA_FACTORY_LLM_URL``, ``LORA_FACTORY_LLM_KEY``,
                            ``LORA_FACTORY_LLM_MODEL`` (type http, openai or
                            pydanticai; the key is its password, the model and a
                            base URL with a path are in extra: ``model``, ``base_url``)
``lora_factory_hub``        ``HF_TOKEN``, ``HF_ENDPOINT`` (type http; the token is its
                            password, the host a whole URL or empty)
``lora_factory_aws``        ``LORA_FACTORY_AWS`` (type aws): keys of the targets on AWS,
                            which may be of another account than the store's
``lora_factory_gcp``        ``GOOGLE_SERVICE_ACCOUNT_KEY`` (a key's JSON, in extra
                            ``keyfile_dict``) or ``GOOGLE_APPLICATION_CREDENTIALS`` (a key's
                            path, ``key_path``) (type google_cloud_platform)
``lora_factory_azure``      ``AZURE_CLIENT_ID``, ``AZURE_CLIENT_SECRET``,
                            ``AZURE_TENANT_ID`` (type azure)
==========================  ==================================================
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from lora_factory.contracts.settings import Settings

CATALOG_CONN_ID = "lora_factory_catalog"
STORE_CONN_ID = "lora_factory_store"
SERVE_CONN_ID = "lora_factory_serve"
LLM_CONN_ID = "lora_factory_llm"
HUB_CONN_ID = "lora_factory_hub"
AWS_CONN_ID = "lora_factory_aws"
GCP_CONN_ID = "lora_factory_gcp"
AZURE_CONN_ID = "lora_factory_azure"


class DeploymentHook(BaseHook):
    """What the deployment's connections say, as variables and as :class:`Settings`."""

    def secrets(self, stage: str | None = None) -> dict[str, str]:
        """Variables from the connections that exist; for a stage those that it needs.

        A stage that reads what strangers wrote has no use for the keys of a cloud.
        """
        found: dict[str, str] = {}
        for conn_id, convert in CONVERTERS.items():
            if stage is not None and stage not in ONLY_FOR.get(conn_id, {stage}):
                continue
            try:
                found |= convert(self.get_connection(conn_id))
            except AirflowNotFoundException:
                continue
        return found

    def settings(self) -> Settings:
        """The deployment's configuration, as this process sees it."""
        return Settings.from_environment(os.environ | self.secrets())

    async def catalog(self) -> str:
        """The catalog's DSN, for the triggerer's event loop."""
        try:
            connection = await self.aget_connection(CATALOG_CONN_ID)
        except AirflowNotFoundException:
            return os.environ.get("LORA_FACTORY_CATALOG", "")
        return catalog_variables(connection)["LORA_FACTORY_CATALOG"]


def catalog_variables(connection: Any) -> dict[str, str]:
    """``postgres://…`` as Airflow writes it → ``postgresql://…`` as libpq documents it."""
    dsn = urlsplit(connection.get_uri())
    return {"LORA_FACTORY_CATALOG": urlunsplit(dsn._replace(scheme="postgresql"))}


def store_variables(connection: Any) -> dict[str, str]:
    """Keys and endpoint of an ``aws`` connection, under the names every S3 client reads."""
    extra = connection.extra_dejson
    values = {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
        "AWS_REGION": extra.get("region_name"),
        "AWS_DEFAULT_REGION": extra.get("region_name"),
        "AWS_ENDPOINT_URL": extra.get("endpoint_url"),
    }
    return {name: str(value) for name, value in values.items() if value}


def serve_variables(connection: Any) -> dict[str, str]:
    """Base URL and admin key of the serving app."""
    scheme = connection.schema or "http"
    port = f":{connection.port}" if connection.port else ""
    values = {"LORA_FACTORY_SERVE_TOKEN": connection.password}
    if connection.host:
        values["LORA_FACTORY_SERVE_URL"] = f"{scheme}://{connection.host}{port}"
    return {name: value for name, value in values.items() if value}


def llm_variables(connection: Any) -> dict[str, str]:
    """Base URL, key and model of an OpenAI-compatible endpoint.

    The host may be a whole URL, as OpenAI connections have it; a path is only kept from there
    or from ``base_url``. Else it is ``/v1``, where such endpoints are.
    """
    extra = connection.extra_dejson
    host = str(connection.host or "")
    url = str(extra.get("base_url") or (host if "://" in host else ""))
    if not url and host:
        port = f":{connection.port}" if connection.port else ""
        url = f"{connection.schema or 'https'}://{host}{port}/v1"
    values = {
        "LORA_FACTORY_LLM_URL": url,
        "LORA_FACTORY_LLM_KEY": connection.password,
        "LORA_FACTORY_LLM_MODEL": extra.get("model"),
    }
    return {name: str(value) for name, value in values.items() if value}


def hub_variables(connection: Any) -> dict[str, str]:
    """Token and address of a model hub, under the names that its library reads."""
    host = str(connection.host or "")
    if host and "://" not in host:
        port = f":{connection.port}" if connection.port else ""
        host = f"{connection.schema or 'https'}://{host}{port}"
    values = {"HF_TOKEN": connection.password, "HF_ENDPOINT": host}
    return {name: str(value) for name, value in values.items() if value}


def aws_variables(connection: Any) -> dict[str, str]:
    """Keys, region and endpoint of the targets on AWS, in one variable."""
    extra = connection.extra_dejson
    values = {
        "key": connection.login,
        "secret": connection.password,
        "token": extra.get("aws_session_token"),
        "region": extra.get("region_name"),
        "endpoint": extra.get("endpoint_url"),
    }
    return {
        "LORA_FACTORY_AWS": ",".join(f"{name}={value}" for name, value in values.items() if value)
    }


def gcp_variables(connection: Any) -> dict[str, str]:
    """A service account's key: its JSON, or where it lies."""
    extra = connection.extra_dejson
    whole = extra.get("keyfile_dict")
    values = {
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(whole) if isinstance(whole, dict) else whole,
        "GOOGLE_APPLICATION_CREDENTIALS": extra.get("key_path"),
    }
    return {name: str(value) for name, value in values.items() if value}


def azure_variables(connection: Any) -> dict[str, str]:
    """A service principal, under the names that Azure's libraries read."""
    values = {
        "AZURE_CLIENT_ID": connection.login,
        "AZURE_CLIENT_SECRET": connection.password,
        "AZURE_TENANT_ID": connection.extra_dejson.get("tenantId"),
    }
    return {name: str(value) for name, value in values.items() if value}


CONVERTERS = {
    CATALOG_CONN_ID: catalog_variables,
    STORE_CONN_ID: store_variables,
    SERVE_CONN_ID: serve_variables,
    LLM_CONN_ID: llm_variables,
    HUB_CONN_ID: hub_variables,
    AWS_CONN_ID: aws_variables,
    GCP_CONN_ID: gcp_variables,
    AZURE_CONN_ID: azure_variables,
}

ONLY_FOR: dict[str, set[str]] = {
    SERVE_CONN_ID: {"deploy"},
    LLM_CONN_ID: {"label"},
    HUB_CONN_ID: {"deploy"},
    AWS_CONN_ID: {"deploy"},
    GCP_CONN_ID: {"deploy"},
    AZURE_CONN_ID: {"deploy"},
}
"""Connection → stages whose child gets it; catalog and store are everybody's."""
