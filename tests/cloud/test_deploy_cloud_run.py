"""Target cloud-run over the SDK's own gRPC transport: the contract of targets, and its rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.cloud.run_v2", reason="make test-cloud runs these")

from cloud_run_api import CloudRun

import cloud_container
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.cloud import CloudTarget
from lora_factory.deploy.gcp_cloud_run import CloudRunRevisions
from lora_factory.deploy.releases import Releases
from lora_factory.deploy.stage import deploy
from lora_factory.deploy.target import Release
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from target_contract import (  # noqa: F401 - tests, run here on this rig
    check_kills,
    test_a_failed_smoke_test_leaves_the_last_good_one,
    test_a_plan_changes_nothing_and_says_what_is_live,
    test_a_promoted_one_can_be_taken_back,
    test_each_step_twice_is_once,
)

OWN = {"project": "factory-project", "location": "europe-west4", "image": "europe/app:1.0"}
SERVICE = "lora-factory-icons"
NAME = f"projects/factory-project/locations/europe-west4/services/{SERVICE}"


class CloudRunRig:
    def __init__(self, cloud: CloudRun, folder: Path, **own: Any) -> None:
        self.cloud, self._folder = cloud, folder
        settings = Settings.model_validate({"cloud_run": OWN | own})
        releases = Releases((folder / "bucket").as_uri())
        revisions = CloudRunRevisions(settings, cloud.doors())
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
def rig(tmp_path: Path) -> Iterator[CloudRunRig]:
    with CloudRun().running() as cloud:
        yield CloudRunRig(cloud, tmp_path)


@pytest.mark.parametrize("after", ["the same", "another"])
def test_killed_anywhere_the_next_run_finishes(rig: CloudRunRig, after: str) -> None:
    check_kills(rig, after)


def test_a_share_of_the_traffic_first_and_an_endpoint(rig: CloudRunRig) -> None:
    first, second = rig.release("icons", 1), rig.release("icons", 5)
    report = deploy(first, rig.target)
    assert report.endpoint == f"{rig.cloud.url}/{SERVICE}/v1/generate"
    seen: list[dict[str, int]] = []
    shift = rig.target._cloud.shift

    def watched(service: str, traffic: Any) -> None:
        shift(service, traffic)
        seen.append(rig.target._cloud.traffic(service))

    rig.target._cloud.shift = watched  # type: ignore[method-assign]
    deploy(second, rig.target)
    old, new = first.model.version, second.model.version
    assert seen == [{old: 100}, {old: 75, new: 25}, {new: 100}]
    service = rig.cloud.services[NAME]
    assert {target.tag for target in service.traffic} == {f"v{old}", f"v{new}"}


@pytest.mark.parametrize("gpu", ["", "nvidia-l4"])
def test_what_a_revision_is_made_of(rig: CloudRunRig, tmp_path: Path, gpu: str) -> None:
    own = CloudRunRig(rig.cloud, tmp_path / "own", gpu=gpu, account="factory@x.iam")
    deploy(own.release("icons", 1), own.target)
    template = rig.cloud.services[NAME].template
    (container,) = template.containers
    assert container.image == "europe/app:1.0"
    assert container.resources.limits.get("nvidia.com/gpu") == ("1" if gpu else None)
    assert template.node_selector.accelerator == gpu
    assert template.gpu_zonal_redundancy_disabled == bool(gpu)
    assert template.service_account == "factory@x.iam"
    assert template.scaling.min_instance_count == 0
    assert {entry.name for entry in container.env} == {
        "LORA_FACTORY_RELEASE",
        "LORA_FACTORY_RELEASE_SHA256",
    }


def test_the_first_revision_of_a_service_counts_once_it_is_promoted(rig: CloudRunRig) -> None:
    release = rig.release("icons", 1)
    rig.target.apply(release)
    assert rig.target.plan(release).live is None
    bad = rig.spoil(release)
    with pytest.raises(ReleaseError, match="live: none"):
        deploy(bad, rig.target)
    assert rig.cloud.services == {}  # nothing of it is left to ask


def test_two_that_write_at_once_make_one_fail(rig: CloudRunRig) -> None:
    deploy(rig.release("icons", 1), rig.target)
    second = rig.release("icons", 5)
    rig.target.apply(second)
    get = rig.target._cloud._get

    def stale(service: str) -> Any:
        found = get(service)
        found.etag = "stale"
        return found

    rig.target._cloud._get = stale
    with pytest.raises(ServiceUnavailable, match="try again later"):
        rig.target.promote(second)
    rig.target._cloud._get = get
    assert rig.target.promote(second).previous == rig.release("icons", 1).model.version


def test_what_is_set_up_wrongly_is_named(rig: CloudRunRig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="needs LORA_FACTORY_CLOUD_RUN"):
        CloudRunRevisions(Settings())
    rig.cloud.denied = True
    with pytest.raises(ConfigurationError, match="connection lora_factory_gcp"):
        deploy(rig.release("icons", 1), rig.target)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '{"private_key": "secret"')
    with pytest.raises(ConfigurationError, match="set connection lora_factory_gcp") as err:
        CloudRunRevisions(Settings.model_validate({"cloud_run": OWN}))
    assert "secret" not in str(err.value)
