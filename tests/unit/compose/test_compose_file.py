"""docker-compose.yaml, Dockerfile and .env. No container engine runs here: files only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PATHS = {"LORA_FACTORY_SIGNING_KEY"}  # of a file; what it holds stays there
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|_KEY|CONN$|BACKEND$|BROKER_URL|CATALOG$|REDIS$")
REFERENCE = re.compile(r"\$\{(\w+)(:\?|:-)?([^}]*)\}")
EXAMPLE = dict(
    line.split("=", 1)
    for line in (ROOT / ".env.example").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_compose_schema():
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.compose-spec", ROOT / "docker-compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_long_running_services_are_watched_and_restarted(name):
    service = SERVICES[name]
    if service["restart"] == "no":
        assert "healthcheck" not in service
        return
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries"} <= set(check)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_wait_for_what_they_need(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        one_shot = SERVICES[other]["restart"] == "no"
        wanted = "service_completed_successfully" if one_shot else "service_healthy"
        assert how["condition"] == wanted, (name, other)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_written_down_or_has_a_default(name):
    for variable, value in SERVICES[name].get("environment", {}).items():
        if not SECRET.search(variable) or value is None or variable in PATHS:
            continue
        found = REFERENCE.findall(value)
        assert found, f"{name}: {variable} is a literal"
        assert all(operator == ":?" for _, operator, _ in found), f"{name}: {variable}"
    for text in strings({k: v for k, v in SERVICES[name].items() if k != "environment"}):
        for variable, _, _ in REFERENCE.findall(text):
            assert not SECRET.search(variable), f"{name}: {variable} outside of environment"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_bound_by_the_operators_choice(name):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("${BIND:-127.0.0.1}:")


def test_the_serving_app_knows_nothing_of_airflow():
    assert set(SERVICES["serve"]["environment"]) == {
        *("LORA_FACTORY_CATALOG", "LORA_FACTORY_SERVE_TOKEN", "LORA_FACTORY_SERVE_PUBLIC"),
        *("LORA_FACTORY_SIGNING_KEY", "LORA_FACTORY_PROFILES", "HF_HOME"),
        *("LORA_FACTORY_WATERMARK_KEY", "LORA_FACTORY_PROTECTED", "LORA_FACTORY_PROTECTED_POLICY"),
    }


def test_our_containers_are_unprivileged():
    for name, service in SERVICES.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        if service["image"].startswith("lora-factory"):
            assert service["cap_drop"] == ["ALL"], name


def test_volumes_and_networks_are_declared():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0] if not volume.startswith("${") else "."
            assert source in COMPOSE["volumes"] or source.startswith("."), volume
        assert set(service["networks"]) <= set(COMPOSE["networks"])


def test_variables_are_documented():
    used = {name for text in strings(SERVICES) for name, _, _ in REFERENCE.findall(text)}
    assert used <= set(EXAMPLE)
    assert set(EXAMPLE) <= used, "documented, but nothing reads it"
    for name, operator, _ in (r for text in strings(SERVICES) for r in REFERENCE.findall(text)):
        assert EXAMPLE[name].startswith("generate:") == (operator == ":?"), name


def test_every_queue_has_a_worker():
    pools = json.loads((ROOT / "include/deploy/pools.json").read_text())
    assert pools["gpu"]["slots"] == 1
    queues = re.findall(r'"queue": "(\w+)"', (ROOT / "dags/lora_factory.py").read_text())
    command = SERVICES["worker"]["command"]
    served = REFERENCE.findall(command[command.index("--queues") + 1])[0][2].split(",")
    assert {"default", *queues} <= set(served)
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]


def test_crawls_and_celery_have_a_redis_database_each():
    environment = SERVICES["worker"]["environment"]
    names = ("LORA_FACTORY_CRAWL_REDIS", "AIRFLOW__CELERY__BROKER_URL")
    servers, databases = zip(*(environment[name].rsplit("/", 1) for name in names), strict=True)
    assert len(set(servers)) == 1
    assert len(set(databases)) == 2
    assert SERVICES["airflow-api"]["environment"][names[0]] == environment[names[0]]  # the page


def test_init_prepares_everything():
    assert SERVICES["init"]["command"][-1] == "/opt/airflow/include/deploy/init.sh"
    script = (ROOT / "include/deploy/init.sh").read_text()
    for words in ("db migrate", "pools import", "users create", "lora_factory catalog migrate"):
        assert words in script


@pytest.mark.parametrize("script", ["init.sh", "postgres/10-catalog.sh"])
def test_scripts_parse(script):
    subprocess.run(["sh", "-n", ROOT / "include/deploy" / script], check=True)


def test_dockerfile():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    assert ["FROM", "python:3.11-slim"] in instructions
    users = [argument for word, argument in instructions if word == "USER"]
    assert users
    assert users[-1] not in {"root", "0"}
    copied = [argument.split()[0] for word, argument in instructions if word == "COPY"]
    ignored = (ROOT / ".dockerignore").read_text()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} is not in the build context"
    secrets = [line for line in lines if re.match(r"(ARG|ENV)", line) and SECRET.search(line)]
    assert secrets == []
