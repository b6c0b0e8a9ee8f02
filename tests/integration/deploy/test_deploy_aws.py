"""Target aws-lambda: what is its own, beside the contract of all targets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import cloud_container
from aws_cloud import BUCKET, IMAGE, REGION, REGISTRY, AwsCloud
from lora_factory.commands import deploy_rollback
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.clouds import cloud_target
from lora_factory.deploy.stage import deploy
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable

pytestmark = pytest.mark.integration
SERVICE = "lora-factory-icons"


def settings(cloud: AwsCloud, **changes: Any) -> Settings:
    values = {
        "releases": f"s3://{BUCKET}/factory",
        "aws": cloud.access,
        "aws_lambda": {"image": IMAGE, "role": cloud.role},
    }
    return Settings.model_validate(values | changes)


def test_users_get_a_url_and_what_runs_is_pinned(aws_cloud: AwsCloud, tmp_path: Path) -> None:
    target = cloud_target("aws-lambda", settings(aws_cloud))
    release = cloud_container.release(tmp_path, "icons", 1)
    plan = target.plan(release)
    assert plan.steps == (
        f"upload the release to s3://{BUCKET}/factory",
        f"make revision {release.model.version} of {SERVICE} on aws-lambda",
        "draw a picture with it and one with the base, compare them",
        f"make it what users of {SERVICE} get",
    )
    report = deploy(release, target)
    assert (report.target, report.version) == ("aws-lambda", release.model.version)
    assert report.endpoint.startswith("https://")
    assert report.endpoint.endswith(f".lambda-url.{REGION}.on.aws/v1/generate")
    client = aws_cloud.client("lambda")
    function = client.get_function(FunctionName=SERVICE, Qualifier="live")["Configuration"]
    assert function["MemorySize"] == 10_240
    variables = function["Environment"]["Variables"]
    assert variables["LORA_FACTORY_RELEASE"].startswith(f"s3://{BUCKET}/factory/icons/")
    assert "secret" not in json.dumps(variables).lower()
    code = client.get_function(FunctionName=SERVICE)["Code"]
    assert code["ImageUri"].startswith(f"{REGISTRY}/lora-factory/lambda@sha256:")
    keys = [
        entry["Key"] for entry in aws_cloud.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    ]
    names = {key.rsplit("/", 1)[1] for key in keys}
    assert names == {
        "README.md",
        "1.png",
        "lora.safetensors",
        "lora_factory.json",
        "promoted-aws-lambda.json",
    }


def test_a_share_of_the_traffic_tries_it_first(aws_cloud: AwsCloud, tmp_path: Path) -> None:
    target = cloud_target("aws-lambda", settings(aws_cloud, cloud_canary=25))
    first, second = (cloud_container.release(tmp_path, "icons", seed) for seed in (1, 5))
    deploy(first, target)
    seen: list[dict[str, int]] = []
    shift = target._cloud.shift

    def watched(service: str, traffic: Any) -> None:
        shift(service, traffic)
        seen.append(target._cloud.traffic(service))

    target._cloud.shift = watched  # type: ignore[method-assign]
    aws_cloud.container.asked.clear()
    deploy(second, target)
    old, new = first.model.version, second.model.version
    assert seen == [{old: 100}, {old: 75, new: 25}, {new: 100}]
    assert [request.steps for request in aws_cloud.container.asked] == [None, None, 2, 2]


def test_what_fails_with_a_share_of_the_traffic_is_undone(
    aws_cloud: AwsCloud, tmp_path: Path
) -> None:
    target = cloud_target("aws-lambda", settings(aws_cloud))
    first, second = (cloud_container.release(tmp_path, "icons", seed) for seed in (1, 5))
    deploy(first, target)
    aws_cloud.container.broken_steps = 2
    with pytest.raises(ReleaseError, match=f"answered 500: broken; live: {first.model.version}"):
        deploy(second, target)
    cloud = target._cloud
    assert cloud.traffic(SERVICE) == {first.model.version: 100}
    assert cloud.revisions(SERVICE).keys() == {first.model.version}
    assert target._releases.promoted("icons", "aws-lambda").versions == (first.model.version,)


def test_another_checkpoint_of_the_same_training_replaces_its_revision(
    aws_cloud: AwsCloud, tmp_path: Path
) -> None:
    target = cloud_target("aws-lambda", settings(aws_cloud))
    first, second = (cloud_container.release(tmp_path, "icons", seed) for seed in (1, 5))
    same = first.model.version
    second = second.model_copy(update={"model": second.model.model_copy(update={"version": same})})
    target.apply(first)
    before = target._cloud.revisions(SERVICE)
    target.apply(second)
    assert target._cloud.revisions(SERVICE) != before
    target.smoke(second)
    target.promote(second)
    with pytest.raises(ReleaseError, match="with other files than these; live: " + same):
        deploy(first, target)
    assert target._cloud.traffic(SERVICE) == {same: 100}


def test_a_lost_pointer_costs_no_more_than_the_way_back(
    aws_cloud: AwsCloud, tmp_path: Path
) -> None:
    target = cloud_target("aws-lambda", settings(aws_cloud))
    first, second = (cloud_container.release(tmp_path, "icons", seed) for seed in (1, 5))
    deploy(first, target)
    s3, key = aws_cloud.client("s3"), "factory/icons/promoted-aws-lambda.json"
    s3.delete_object(Bucket=BUCKET, Key=key)
    assert deploy(second, target).previous == first.model.version  # the cloud itself says so
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"{")
    with pytest.raises(ReleaseError, match="is not the factory's; remove it"):
        deploy(first, target)
    assert target._cloud.traffic(SERVICE) == {second.model.version: 100}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"releases": None}, "needs LORA_FACTORY_RELEASES"),
        ({"aws_lambda": None}, "needs LORA_FACTORY_AWS_LAMBDA"),
        ({"image": f"{REGISTRY}/lora-factory/lambda:2.0"}, "push it, or correct its name"),
        ({"image": f"{REGISTRY}/nothing:1.0"}, "push it, or correct its name"),
        ({"image": "docker.io/library/python:3.11"}, "is in no ECR registry"),
        ({"releases": "s3://nowhere/x"}, "bucket s3://nowhere/x"),
    ],
)
def test_what_is_set_up_wrongly_is_named(
    aws_cloud: AwsCloud, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if "image" in changes:
        changes = {"aws_lambda": {"image": changes["image"], "role": aws_cloud.role}}
    release = cloud_container.release(tmp_path, "icons", 1)
    with pytest.raises((ConfigurationError, ServiceUnavailable), match=words) as err:
        deploy(release, cloud_target("aws-lambda", settings(aws_cloud, **changes)))
    assert "\n" not in str(err.value)
    assert aws_cloud.client("lambda").list_functions()["Functions"] == []


def test_wrong_keys_and_no_answer_are_told_apart(aws_cloud: AwsCloud, tmp_path: Path) -> None:
    release = cloud_container.release(tmp_path, "icons", 1)
    aws_cloud.denied = True
    with pytest.raises(ConfigurationError, match="correct the keys or their rights"):
        deploy(release, cloud_target("aws-lambda", settings(aws_cloud)))
    gone = aws_cloud.access.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(ServiceUnavailable, match="no answer"):
        deploy(release, cloud_target("aws-lambda", settings(aws_cloud, aws=gone)))


def test_an_operator_can_go_back(
    aws_cloud: AwsCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = settings(aws_cloud)
    target = cloud_target("aws-lambda", whole)
    first, second = (cloud_container.release(tmp_path, "icons", seed) for seed in (1, 5))
    args = argparse.Namespace(target="aws-lambda", name="icons")
    with pytest.raises(ReleaseError, match="has no earlier version than none"):
        deploy_rollback.run(args, whole)
    deploy(first, target)
    deploy(second, target)
    assert deploy_rollback.run(args, whole) == 0
    assert first.model.version in capsys.readouterr().out
    assert target._cloud.traffic(SERVICE) == {first.model.version: 100}
    with pytest.raises(ReleaseError, match="has no earlier version than " + first.model.version):
        deploy_rollback.run(args, whole)
    assert deploy(second, target).previous == first.model.version


@pytest.mark.parametrize(
    ("target", "module", "values"),
    [
        (
            "cloud-run",
            "google.cloud",
            {"cloud_run": {"project": "a-project", "location": "x", "image": "a/b"}},
        ),
        (
            "azure",
            "azure.ai.ml",
            {"azure": {"subscription": "0" * 36, "group": "g", "workspace": "w", "image": "a/b"}},
        ),
    ],
)
def test_a_missing_sdk_is_named(
    monkeypatch: pytest.MonkeyPatch, target: str, module: str, values: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    whole = Settings.model_validate({"releases": "file:///releases", **values})
    with pytest.raises(ConfigurationError, match=r"install requirements-cloud\.txt") as err:
        cloud_target(target, whole)
    assert "LORA_FACTORY_CLOUD_PYTHON" in str(err.value)
