"""The Lambda handler in a process of its own, under Lambda's runtime client: real pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import cloud_container
from aws_cloud import ACCOUNT, BUCKET, REGION, AwsCloud
from lambda_runtime import LambdaRuntime
from lora_factory.deploy.aws_lambda import url_event
from lora_factory.deploy.releases import Releases
from lora_factory.guard.provenance.c2pa import read_credentials

pytestmark = pytest.mark.integration
HANDLER = "lora_factory.serve.lambda_handler.handler"


@pytest.fixture(scope="module")
def cloud() -> Iterator[AwsCloud]:
    with AwsCloud().running() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(cloud: AwsCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaRuntime]:
    folder = tmp_path_factory.mktemp("lambda")
    release = cloud_container.release(folder, "icons", 1, cloud_container.TRAINED)
    revision = Releases(f"s3://{BUCKET}/factory", cloud.access).upload(release)
    environment = revision.environment() | {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": cloud.url,
        "LORA_FACTORY_SCRATCH": str(folder / "scratch"),
        "LORA_FACTORY_THREADS": "1",
        "PYTHONPATH": "include",
    }
    with LambdaRuntime(environment).running(HANDLER, folder / "log") as running:
        yield running


def ask(runtime: LambdaRuntime, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = runtime.invoke(url_event(method, path, json.dumps(body) if body else ""))
    return answer["statusCode"], json.loads(answer["body"])


def picture(answer: Any) -> np.ndarray[Any, Any]:
    data = base64.b64decode(answer["image"])
    return np.asarray(Image.open(io.BytesIO(data)), float)


def test_it_draws_with_the_lora_and_with_the_base(runtime: LambdaRuntime) -> None:
    wish = {"prompt": "icnx, a red apple", "seed": 7, "steps": 2}
    status, base = ask(runtime, "POST", "/v1/generate", wish)
    assert (status, base["adapter"], base["marks"]) == (200, None, ["c2pa"])
    status, drawn = ask(runtime, "POST", "/v1/generate", wish | {"adapter": "icons"})
    assert (status, drawn["adapter"], drawn["seed"]) == (200, "icons", 7)
    assert picture(drawn).shape == (64, 64, 3)
    assert np.abs(picture(drawn) - picture(base)).mean() > 1
    again = ask(runtime, "POST", "/v1/generate", wish | {"adapter": "icons"})[1]
    assert np.array_equal(picture(again), picture(drawn))
    credentials = read_credentials(base64.b64decode(drawn["image"]))
    assert credentials is not None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "x", "adapter": "other"}, 404, "no such adapter here, only icons"),
        ({"prompt": "x", "version": "0123456789ab"}, 404, "no such adapter"),
        ({"prompt": ""}, 422, "prompt: "),
        ({"prompt": "x", "strength": 9}, 422, "strength: "),
        ({"prompt": "x", "colour": 1}, 422, "colour: "),
        ({"prompt": "a nude on a beach"}, 422, "refused by the content rules"),
        (None, 422, "body: "),
        ({"prompt": "x" * 70_000}, 413, "body: more than 65536 bytes"),
    ],
)
def test_what_cant_be_drawn_is_answered_in_one_line(
    runtime: LambdaRuntime, body: Any, status: int, words: str
) -> None:
    found, answer = ask(runtime, "POST", "/v1/generate", body)
    assert (found, words in answer["error"]) == (status, True), answer
    assert "\n" not in answer["error"]


def test_other_paths_and_broken_events(runtime: LambdaRuntime) -> None:
    assert ask(runtime, "GET", "/healthz")[1]["status"] == "ok"
    assert ask(runtime, "GET", "/")[0] == 404
    assert ask(runtime, "GET", "/v1/jobs/../x")[0] == 404
    assert runtime.invoke({})["statusCode"] == 404
    bad = url_event("POST", "/v1/generate", "&") | {"isBase64Encoded": True}
    assert runtime.invoke(bad)["statusCode"] == 422


def test_long_work_goes_through_the_bucket(runtime: LambdaRuntime, cloud: AwsCloud) -> None:
    wish = {"prompt": "icnx, a red apple", "seed": 7, "steps": 2, "adapter": "icons"}
    status, job = ask(runtime, "POST", "/v1/jobs", wish)
    assert (status, job["state"]) == (202, "waiting")
    assert httpx.get(job["url"]).status_code == 404  # not yet
    assert ask(runtime, "GET", f"/v1/jobs/{job['id']}")[1]["state"] == "waiting"
    assert cloud.later == [
        (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:lora-factory-icons:live", {"job": job["id"]})
    ]
    assert runtime.invoke({"job": job["id"]}) == {"job": job["id"], "state": "done"}
    status, seen = ask(runtime, "GET", f"/v1/jobs/{job['id']}")
    assert (status, seen["state"]) == (200, "done")
    drawn = httpx.get(seen["url"]).json()
    assert np.array_equal(picture(drawn), picture(ask(runtime, "POST", "/v1/generate", wish)[1]))
    assert runtime.invoke({"job": job["id"]})["state"] == "done"  # repeated: not drawn again
    assert httpx.get(seen["url"]).json()["generation_id"] == drawn["generation_id"]
    assert ask(runtime, "GET", f"/v1/jobs/{'0' * 32}")[0] == 404
    refused = ask(runtime, "POST", "/v1/jobs", {"prompt": "a nude on a beach"})[1]
    assert runtime.invoke({"job": refused["id"]})["state"] == "failed"
    assert ask(runtime, "GET", f"/v1/jobs/{refused['id']}")[1]["state"] == "failed"
