"""The contract of deployment targets: the serving app, a hub, AWS (tests/cloud: the others).

The tests themselves are in ``target_contract``; here are the rigs, and what is the hub's own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import cloud_container
from aws_cloud import BUCKET, IMAGE, AwsCloud
from hub_repositories import Hub
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.clouds import cloud_target
from lora_factory.deploy.hub import HubTarget
from lora_factory.deploy.local import LocalTarget
from lora_factory.deploy.stage import deploy
from lora_factory.deploy.target import Release
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from serving_app import ADMIN_KEY, Server
from target_contract import (  # noqa: F401 - tests, run here on these rigs
    Rig,
    check_kills,
    test_a_failed_smoke_test_leaves_the_last_good_one,
    test_a_plan_changes_nothing_and_says_what_is_live,
    test_a_promoted_one_can_be_taken_back,
    test_each_step_twice_is_once,
)

pytestmark = pytest.mark.integration
Make = Callable[[int, float], Path]
CARD = "---\ntags: [lora, diffusers]\ninstance_prompt: icnx\n---\n# Icons\n"


def release_of(file: Path, name: str, folder: Path | None = None) -> Release:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    model = NewModel(
        name=name,
        version=digest[:12],
        sha256=digest,
        base="emoji",
        trigger="icnx",
        overall=0.9,
        lora="file:///lora",
        evaluation="file:///evaluation",
    )
    return Release(model=model, file=file, folder=folder, prompt="icnx, a red apple")


class LocalRig:
    def __init__(self, server: Server, make_lora: Make) -> None:
        settings = Settings.model_validate({"serve_url": server.url, "serve_token": ADMIN_KEY})
        self.target = LocalTarget(settings, patience=0.1)
        self._server, self._make, self._left = server, make_lora, None
        self.target._app._client.event_hooks["request"].append(self._count)

    _left: int | None

    def _count(self, request: httpx.Request) -> None:
        if self._left is None:
            return
        if self._left <= 0:
            msg = "gone"
            raise httpx.ConnectError(msg)
        self._left -= request.method != "GET" and request.url.path != "/v1/generate"

    def release(self, name: str, seed: int) -> Release:
        return release_of(self._make(seed, 0.05), name)

    def spoil(self, release: Release) -> Release:
        return release_of(self._make(3, 0.0), release.model.name)  # draws what the base does

    def live(self, name: str) -> str | None:
        listed = self._server.client.get("/v1/adapters").json()["adapters"]
        return {adapter["name"]: adapter["version"] for adapter in listed}.get(name)

    def state(self) -> Any:
        return self._server.client.get("/v1/adapters").json()

    def lose_after(self, changes: int | None) -> None:
        self._left = changes


class HubRig:
    def __init__(self, hub: Hub, folder: Path) -> None:
        self.target, self.hub, self._folder = (
            HubTarget(Settings(hub_namespace="factory")),
            hub,
            folder,
        )

    def release(self, name: str, seed: int) -> Release:
        folder = self._folder / f"{name}-{seed}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        for path in ("lora.safetensors", "lora.kohya.safetensors", f"samples/{seed}.png"):
            (folder / path).write_bytes(f"{path} {seed}".encode() * 30)
        (folder / "README.md").write_text(CARD)
        (folder / "lineage.json").write_text("places of the deployment's own")
        return release_of(folder / "lora.safetensors", name, folder)

    def spoil(self, release: Release) -> Release:
        self.hub.corrupt.add("lora.safetensors")
        return release

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.hub.repositories[f"factory/{name}"]
        return repo.commits[str(repo.at(revision))]

    def live(self, name: str) -> str | None:
        if f"factory/{name}" not in self.hub.repositories:
            return None
        lora = self.files(name).get("lora.safetensors")
        return hashlib.sha256(lora).hexdigest()[:12] if lora else None

    def state(self) -> Any:
        return self.hub.state()

    def lose_after(self, changes: int | None) -> None:
        self.hub.lose_after = changes


class AwsRig:
    """Of both targets on AWS."""

    def __init__(self, name: str, cloud: AwsCloud, folder: Path) -> None:
        self.cloud, self._folder = cloud, folder
        self.settings = Settings.model_validate({
            "releases": f"s3://{BUCKET}/factory",
            "aws": cloud.access,
            "aws_lambda": {"image": IMAGE, "role": cloud.role},
            "aws_sagemaker": cloud.machines,
        })
        self.target = cloud_target(name, self.settings)

    def release(self, name: str, seed: int) -> Release:
        return cloud_container.release(self._folder, name, seed)

    def spoil(self, release: Release) -> Release:
        self.cloud.container.spoiled.add(release.model.version)
        return release

    def live(self, name: str) -> str | None:
        return self.cloud.live(self.target.name, f"lora-factory-{name}")

    def state(self) -> Any:
        return self.cloud.state()

    def lose_after(self, changes: int | None) -> None:
        self.cloud.changes_left = changes


@pytest.fixture
def hub_rig(hub: Hub, tmp_path: Path) -> HubRig:
    return HubRig(hub, tmp_path)


@pytest.fixture(params=["hub", "local", "aws-lambda", "aws-sagemaker"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param.startswith("aws-"):
        return AwsRig(request.param, request.getfixturevalue("aws_cloud"), tmp_path)
    if request.param == "hub":
        found: Rig = request.getfixturevalue("hub_rig")
        return found
    server, make = (request.getfixturevalue(name) for name in ("server", "make_lora"))
    return LocalRig(server, make)


SLOW = pytest.mark.slow
KILLED = [
    *itertools.product(["hub", "local"], ["the same", "another"]),
    *(
        pytest.param(target, after, marks=SLOW)
        for target in ("aws-lambda", "aws-sagemaker")
        for after in ("the same", "another")
    ),
]


@pytest.mark.parametrize(("rig", "after"), KILLED, indirect=["rig"])
def test_killed_anywhere_the_next_run_finishes(rig: Rig, after: str) -> None:
    check_kills(rig, after)


# -- what is the hub's own


def test_the_hub_gets_the_release_and_nothing_internal(hub_rig: HubRig) -> None:
    first, second = hub_rig.release("own", 1), hub_rig.release("own", 5)
    report = deploy(first, hub_rig.target)
    assert report.endpoint == f"{hub_rig.hub.url}/factory/own"
    repo = hub_rig.hub.repositories["factory/own"]
    assert repo.private
    names = {"README.md", "lora.safetensors", "lora.kohya.safetensors", "lora_factory.json"}
    assert hub_rig.files("own").keys() == names | {"samples/1.png", ".gitattributes"}
    deploy(second, hub_rig.target)
    assert hub_rig.files("own").keys() == names | {"samples/5.png", ".gitattributes"}
    tag = f"release-{first.model.version}"
    assert hub_rig.files("own", tag)["lora.safetensors"] == first.file.read_bytes()
    assert list(repo.branches) == ["main"]


def test_the_last_good_one_is_tagged_before_the_promotion(hub_rig: HubRig) -> None:
    first, second = hub_rig.release("pointer", 1), hub_rig.release("pointer", 5)
    deploy(first, hub_rig.target)
    repo = hub_rig.hub.repositories["factory/pointer"]
    repo.tags.clear()  # as if it was killed before it could tag
    hub_rig.target.apply(second)
    hub_rig.lose_after(1)
    with pytest.raises(ServiceUnavailable):
        hub_rig.target.promote(second)
    hub_rig.lose_after(None)
    assert repo.tags == {f"release-{first.model.version}": repo.branches["main"]}
    assert hub_rig.live("pointer") == first.model.version


def test_a_card_without_its_metadata_is_not_promoted(hub_rig: HubRig) -> None:
    release = hub_rig.release("card", 1)
    assert release.folder is not None
    for text, words in (
        ("# Icons\n", "is no card of a LoRA"),
        (CARD.replace("icnx", "other"), "is no card of a LoRA"),
        ("---\ntags: [\n---\n", "has no metadata"),
    ):
        (release.folder / "README.md").write_text(text)
        with pytest.raises(ReleaseError, match=words):
            deploy(release, hub_rig.target)
        assert hub_rig.live("card") is None
    (release.folder / "README.md").unlink()
    with pytest.raises(ReleaseError, match=r"no README\.md, which the hub needs"):
        deploy(release, hub_rig.target)


def test_what_the_hub_refuses_is_named(hub_rig: HubRig, monkeypatch: pytest.MonkeyPatch) -> None:
    release = hub_rig.release("refused", 1)
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_HUB_NAMESPACE"):
        HubTarget(Settings())
    stranger = HubTarget(Settings(hub_namespace="somebody-else"))
    with pytest.raises(ConfigurationError, match="needs write access"):
        deploy(release, stranger)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigurationError, match="HF_TOKEN") as err:
        deploy(release, hub_rig.target)
    assert "hf_wrong" not in str(err.value)
    assert hub_rig.state() == {}


def test_a_plan_says_what_it_will_do(hub_rig: HubRig) -> None:
    first, second = hub_rig.release("told", 1), hub_rig.release("told", 5)
    steps = hub_rig.target.plan(first).steps
    assert steps[0] == "make the private repository factory/told"
    assert len(steps) == 4
    deploy(first, hub_rig.target)
    steps = hub_rig.target.plan(second).steps
    assert steps[2] == f"tag main as release-{first.model.version}"
    assert hub_rig.target.plan(first).steps == (
        f"factory/told has {first.model.version} already; compare its bytes",
    )


def test_two_that_commit_at_once_make_one_fail(hub_rig: HubRig) -> None:
    release = hub_rig.release("raced", 1)
    hub_rig.target.apply(release)
    repo = hub_rig.hub.repositories["factory/raced"]
    head = repo.branches["main"]

    def commit_between(*args: Any, **kwargs: Any) -> Any:
        repo.commit("main", {"README.md": b"by a person"})
        return create_commit(*args, **kwargs)

    create_commit = hub_rig.target._hub.create_commit
    hub_rig.target._hub.create_commit = commit_between
    with pytest.raises(ServiceUnavailable, match="answered 412"):
        hub_rig.target.promote(release)
    assert repo.commits[repo.branches["main"]] == {"README.md": b"by a person"}
    assert repo.branches["main"] != head
