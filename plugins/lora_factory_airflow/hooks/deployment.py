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
==========================  ==================================================
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from lora_factory.contracts.settings import Settings

CATALOG_CONN_ID = "lora_factory_catalog"
STORE_CONN_ID = "lora_factory_store"
SERVE_CONN_ID = "lora_factory_serve"


class DeploymentHook(BaseHook):
    """What the deployment's connections say, as variables and as :class:`Settings`."""

    def secrets(self) -> dict[str, str]:
        """Variables from the connections that exist."""
        found: dict[str, str] = {}
        for conn_id, convert in CONVERTERS.items():
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


CONVERTERS = {
    CATALOG_CONN_ID: catalog_variables,
    STORE_CONN_ID: store_variables,
    SERVE_CONN_ID: serve_variables,
}
