"""Connections as variables. Airflow reads AIRFLOW_CONN_* itself, so these are real ones."""

from __future__ import annotations

import json

import pytest

from lora_factory.contracts.settings import Settings
from lora_factory_airflow.hooks.deployment import DeploymentHook


@pytest.fixture(autouse=True)
def no_leftovers(monkeypatch):
    for name in ("CATALOG", "STORE", "SERVE"):
        monkeypatch.delenv(f"AIRFLOW_CONN_LORA_FACTORY_{name}", raising=False)


def test_without_connections_the_variables_count(monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_CATALOG", "postgresql://u:p@h/d")
    monkeypatch.setenv("LORA_FACTORY_STORE", "file:///s")
    hook = DeploymentHook()
    assert hook.secrets() == {}
    settings = hook.settings()
    assert settings.catalog.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.store == "file:///s"


def test_connections_win(monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_CATALOG", "postgresql://old@h/d")
    monkeypatch.setenv(
        "AIRFLOW_CONN_LORA_FACTORY_CATALOG", "postgres://u:p%40ss@db:5433/cat?sslmode=require"
    )
    store = {
        "conn_type": "aws",
        "login": "key",
        "password": "s3cret",
        "extra": {"region_name": "eu-west-1", "endpoint_url": "http://s3:8333"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LORA_FACTORY_STORE", json.dumps(store))
    monkeypatch.setenv("AIRFLOW_CONN_LORA_FACTORY_SERVE", "http://:tok@serve:8000/https")
    found = DeploymentHook().secrets()
    assert found == {
        "LORA_FACTORY_CATALOG": "postgresql://u:p%40ss@db:5433/cat?sslmode=require",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://s3:8333",
        "LORA_FACTORY_SERVE_TOKEN": "tok",
        "LORA_FACTORY_SERVE_URL": "https://serve:8000",
    }
    settings = DeploymentHook().settings()
    assert settings.serve_url == "https://serve:8000"
    assert "p%40ss" not in repr(settings)


@pytest.mark.parametrize(
    ("connection", "url", "model"),
    [
        ("http://:sk-k@llm:8000/http", "http://llm:8000/v1", None),
        (
            {"conn_type": "openai", "host": "https://llm.test/v2", "password": "sk-k"},
            "https://llm.test/v2",
            None,
        ),
        (
            {
                "conn_type": "pydanticai",
                "password": "sk-k",
                "extra": {"model": "qwen3-vl", "base_url": "http://vllm:8000/v1"},
            },
            "http://vllm:8000/v1",
            "qwen3-vl",
        ),
    ],
)
def test_an_llm_connection_is_plain_settings(monkeypatch, connection, url, model):
    text = connection if isinstance(connection, str) else json.dumps(connection)
    monkeypatch.setenv("AIRFLOW_CONN_LORA_FACTORY_LLM", text)
    settings = DeploymentHook().settings()
    assert settings.llm_url == url
    assert settings.llm_key.get_secret_value() == "sk-k"
    assert settings.llm_model == (model or "")
    assert "sk-k" not in repr(settings)


@pytest.mark.parametrize(
    ("connection", "found"),
    [
        ("http://:hf_t@", {"HF_TOKEN": "hf_t"}),
        ("http://:hf_t@hub:8080/http", {"HF_TOKEN": "hf_t", "HF_ENDPOINT": "http://hub:8080"}),
        ("http://:hf_t@hub", {"HF_TOKEN": "hf_t", "HF_ENDPOINT": "https://hub"}),
    ],
)
def test_a_hubs_token_and_address(monkeypatch, connection, found):
    monkeypatch.setenv("AIRFLOW_CONN_LORA_FACTORY_HUB", connection)
    assert DeploymentHook().secrets() == found


def test_clouds_have_keys_of_their_own(monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_LORA_FACTORY_AWS",
        '{"conn_type": "aws", "login": "AKIA", "password": "a/b+c=", '
        '"extra": {"region_name": "eu-west-1"}}',
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_LORA_FACTORY_GCP",
        '{"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": {"type": "x"}}}',
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_LORA_FACTORY_AZURE",
        '{"conn_type": "azure", "login": "id", "password": "pw", "extra": {"tenantId": "t"}}',
    )
    found = DeploymentHook().secrets()
    assert found == {
        "LORA_FACTORY_AWS": "key=AKIA,secret=a/b+c=,region=eu-west-1",
        "GOOGLE_SERVICE_ACCOUNT_KEY": '{"type": "x"}',
        "AZURE_CLIENT_ID": "id",
        "AZURE_CLIENT_SECRET": "pw",
        "AZURE_TENANT_ID": "t",
    }
    assert DeploymentHook().secrets("deploy") == found
    assert DeploymentHook().secrets("crawl") == {}, "what reads strangers' bytes gets no keys"
    access = Settings.from_environment(found).aws
    assert access is not None
    assert (access.key, access.secret.get_secret_value()) == ("AKIA", "a/b+c=")
