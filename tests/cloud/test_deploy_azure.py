"""Target azure over the SDK's own transport: the contract of targets, and its own rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("azure.ai.ml", reason="make test-cloud runs these")

from azure_ml_api import SUBSCRIPTION, AzureMl

import cloud_container
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.azure_ml import AzureRevisions
from lora_factory.deploy.cloud import CloudTarget
from lora_factory.deploy.releases import Releases
from lora_factory.deploy.stage import deploy
from lora_factory.deploy.target import Release
from lora_factory.errors import ConfigurationError, ReleaseError
from target_contract import (  # noqa: F401 - tests, run here on this rig
    check_kills,
    test_a_failed_smoke_test_leaves_the_last_good_one,
    test_a_plan_changes_nothing_and_says_what_is_live,
    test_a_promoted_one_can_be_taken_back,
    test_each_step_twice_is_once,
)

OWN = {"subscription": SUBSCRIPTION, "group": "g", "workspace": "w", "image": "r.azurecr.io/app:1"}
SERVICE = "lora-factory-icons"


class AzureRig:
    def __init__(self, cloud: AzureMl, folder: Path) -> None:
        self.cloud, self._folder = cloud, folder
        settings = Settings.model_validate({"azure": OWN})
        revisions = AzureRevisions(settings, cloud.client())
        releases = Releases((folder / "bucket").as_uri())
        self.target = CloudTarget(revisions, releases, canary=25)

    def release(self, name: str, seed: int) -> Release:
        return cloud_container.release(self._folder, name, seed)

    def spoil(self, release: Release) -> Release:
        self.cloud.container.spoiled.add(release.model.version)
        return release

    def live(self, name: str) -> str | None:
        return self.cloud.live(f"lora-factory-{name}")

    def state(self) -> Any:
        return self.cloud.state()

    def lose_after(self, changes: int | None) -> None:
        self.cloud.changes_left = changes


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[AzureRig]:
    with AzureMl().running() as cloud:
        yield AzureRig(cloud, tmp_path)


@pytest.mark.parametrize("after", ["the same", "another"])
def test_killed_anywhere_the_next_run_finishes(rig: AzureRig, after: str) -> None:
    check_kills(rig, after)


def test_blue_and_green_and_no_third(rig: AzureRig) -> None:
    for seed in (1, 5, 6):
        report = deploy(rig.release("icons", seed), rig.target)
    assert report.endpoint == f"{rig.cloud.url}/score/{SERVICE}"
    versions = [rig.release("icons", seed).model.version for seed in (5, 6)]
    made = rig.cloud.deployments[SERVICE]
    assert sorted(name[1:13] for name in made) == sorted(versions)
    assert rig.target._cloud.traffic(SERVICE) == {versions[1]: 100}


def test_what_a_deployment_is_made_of(rig: AzureRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "factory")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "verysecret")
    deploy(rig.release("icons", 1), rig.target)
    (made,) = rig.cloud.deployments[SERVICE].values()
    assert made["sku"]["capacity"] == 1 or made["properties"]["instanceType"]
    assert made["properties"]["instanceType"] == "Standard_NC4as_T4_v3"
    assert made["properties"]["environmentVariables"].keys() == {
        "LORA_FACTORY_RELEASE",
        "LORA_FACTORY_RELEASE_SHA256",
        "AZURE_STORAGE_ACCOUNT_NAME",
    }
    (environment,) = rig.cloud.environments.values()
    told = environment["properties"]
    assert told["image"] == "r.azurecr.io/app:1"
    assert told["inferenceConfig"]["scoringRoute"] == {"port": 8080, "path": "/v1/generate"}
    assert "verysecret" not in str((made, environment))


def test_a_first_version_that_fails_leaves_nothing_to_pay_for(rig: AzureRig) -> None:
    with pytest.raises(ReleaseError, match="live: none"):
        deploy(rig.spoil(rig.release("icons", 1)), rig.target)
    assert rig.cloud.endpoints == {}


def test_what_is_set_up_wrongly_is_named(rig: AzureRig) -> None:
    with pytest.raises(ConfigurationError, match="needs LORA_FACTORY_AZURE"):
        AzureRevisions(Settings())
    rig.cloud.denied = True
    with pytest.raises(ConfigurationError, match="connection lora_factory_azure"):
        deploy(rig.release("icons", 1), rig.target)
