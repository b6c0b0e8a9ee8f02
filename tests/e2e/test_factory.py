"""The factory from the outside: REST API, serving API, files. Short trainings, real everything.

The tests build on each other's runs, in order: a deployed LoRA is made once.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from e2e.conftest import Runs
from lora_factory.contracts.evaluation import DeployReport, EvaluationReport
from lora_factory.contracts.settings import Settings
from lora_factory.demo.deployment import Deployment
from lora_factory.errors import SpecError
from lora_factory.feedback.decide import MIN_RATINGS
from lora_factory.guard.provenance.c2pa import read_credentials
from lora_factory.guard.provenance.keys import read_public_key
from lora_factory.guard.provenance.signing import verify_folder
from lora_factory.store.artifacts import ArtifactStore, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CONF: dict[str, Any] = {
    "topics": ["black and white icons"],
    "source": "folder",
    "folder": "icons",
    "name": "e2e-icons",
    "epochs": 1,
    "threshold": 0.05,  # one epoch makes no style; what is tested here is the way, not the model
    "attempts": 1,
    "as_of": "2026-11-24",
}


@pytest.fixture(scope="session")
def store(deployment: Deployment) -> ArtifactStore:
    return open_store(Settings.from_environment(deployment.environment("", "")))


@pytest.fixture(scope="session")
def first(runs: Runs) -> dict[str, Any]:
    """The result of the run that deploys."""
    assert runs("first", CONF) == "success", runs.states("first")
    result = runs.api.xcom("lora_factory", "first", "result")
    assert isinstance(result, dict)
    return result


def test_a_folder_becomes_a_deployed_lora(
    first: dict[str, Any], store: ArtifactStore, deployment: Deployment
) -> None:
    assert first["verdict"] == "pass"
    assert first["attempts"] == 1
    stages = {task.rpartition(".")[2] for task in first["stages"]}
    assert stages == {"crawl", "sanitize", "label", "tune", "train", "evaluate", "deploy"}
    assert first["model"]["endpoint"].startswith(deployment.serve_url)
    for result in first["stages"].values():
        assert set(result) == {"manifest_uri", "sha256", "counts", "seconds", "reused"}
        store.fetch(result["manifest_uri"])  # verifies every file's hash
    assert first["stages"]["crawl"]["counts"]["kept"] == 36


def test_the_release_is_signed_and_its_origin_known(
    first: dict[str, Any], store: ArtifactStore, deployment: Deployment
) -> None:
    release = store.fetch(first["stages"]["deploy"]["manifest_uri"])
    report = DeployReport.model_validate(release.manifest.stats)
    assert report.signed
    assert report.lineage_complete
    assert report.images
    public = read_public_key(deployment.folder / "keys" / "signing.pub")
    assert verify_folder(release.path, public).passed


def test_the_endpoint_draws_and_takes_ratings(
    first: dict[str, Any], deployment: Deployment
) -> None:
    body = {"prompt": f"cat, {first['model']['trigger']} style", "adapter": "e2e-icons", "seed": 3}
    answers = [httpx.post(first["model"]["endpoint"], json=body, timeout=60) for _ in range(2)]
    pictures = [base64.b64decode(answer.json()["image"]) for answer in answers]
    image, again = (Image.open(io.BytesIO(picture)) for picture in pictures)
    assert image.tobytes() == again.tobytes(), "same seed, same picture"
    anchors = (deployment.folder / "keys" / "trust.pem").read_text()
    assert {getattr(read_credentials(data, anchors), "state", None) for data in pictures} == {
        "Trusted"
    }
    assert image.size == (64, 64)
    assert len(image.getcolors(64 * 64) or []) > 10

    rating = {"rating_token": answers[0].json()["rating_token"], "rating": 1, "user": "u1"}
    feedback = f"{deployment.serve_url}/v1/feedback"
    assert httpx.post(feedback, json=rating).status_code < 300
    assert httpx.post(feedback, json=rating).status_code == 409, "once per user"
    forged = rating | {"rating_token": rating["rating_token"][:-4] + "AAAA"}
    assert httpx.post(feedback, json=forged).status_code in {400, 401, 403, 422}


def test_the_same_conf_again_finds_every_artifact(first: dict[str, Any], runs: Runs) -> None:
    assert runs("again", CONF) == "success"
    again = runs.api.xcom("lora_factory", "again", "result")
    made = {task: again["stages"][task] for task in again["stages"] if task != "deploy"}
    assert {task: result["manifest_uri"] for task, result in made.items()} == {
        task: first["stages"][task]["manifest_uri"] for task in made
    }
    assert all(result["reused"] for result in made.values())
    assert again["model"]["version"] == first["model"]["version"]


def test_a_lora_that_does_not_pass_is_not_deployed_and_the_run_fails(
    first: dict[str, Any], runs: Runs, store: ArtifactStore
) -> None:
    conf = CONF | {
        "threshold": 0.99,
        "start_from": first["stages"]["attempt_1.train"]["manifest_uri"],
    }
    assert runs("hopeless", conf) == "failed"
    states = runs.states("hopeless")
    assert states["crawl"] == states["attempt_1.train"] == states["deploy"] == "skipped"
    assert states["attempt_1.evaluate"] == states["attempt_1.gate"] == "success"
    assert states["result"] == "failed"
    assert runs.tries("hopeless", "result") == 1
    assert runs.says("hopeless", "result", "gave up after 1 attempt")
    result = runs.api.xcom("lora_factory", "hopeless", "result")
    report = EvaluationReport.model_validate(store.read_manifest(result["evaluation"]).stats)
    assert report.verdict == "fail"
    assert report.advice.reasons


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"epoch": 3}, "unknown key(s) in the run's conf: epoch"),
        ({"profile": "huge"}, "unknown profile 'huge'; choose one of: embedded"),
        ({"folder": "secret"}, "folder 'secret' is not offered here; offered: few, icons, junk"),
        ({"source": "web", "seeds": ["http://10.0.0.1/"]}, "seed host 10.0.0.1 may not be crawled"),
        ({"start_from": "file:///etc/passwd"}, "is no manifest.json in this deployment's store"),
        ({"base": "sdxl"}, "has no base 'sdxl'; choose one of: emoji"),
    ],
    ids=["key", "profile", "folder", "seed", "store", "base"],
)
def test_a_bad_conf_fails_in_plan_with_one_line(
    runs: Runs, request: pytest.FixtureRequest, conf: dict[str, Any], words: str
) -> None:
    run_id = f"bad-{request.node.callspec.id}"
    assert runs(run_id, CONF | conf) == "failed"
    states = runs.states(run_id)
    assert states["plan"] == "failed"
    assert states["crawl"] in {"upstream_failed", "skipped", None}
    assert runs.tries(run_id, "plan") == 1
    assert runs.says(run_id, "plan", words)


def test_the_api_refuses_what_the_form_would(runs: Runs) -> None:
    for conf in ({}, CONF | {"epochs": "many"}, CONF | {"topics": []}, CONF | {"threshold": 2}):
        with pytest.raises(SpecError, match="HTTP 400"):
            runs.api.trigger("lora_factory", "refused", conf)


@pytest.mark.parametrize(
    ("folder", "task", "words"),
    [
        ("few", "attempt_1.sanitize", "3 of 3 images are usable"),
        ("junk", "crawl", "not_an_image"),
    ],
)
def test_unusable_data_fails_once_and_says_why(
    runs: Runs, folder: str, task: str, words: str
) -> None:
    run_id = f"data-{folder}"
    assert runs(run_id, CONF | {"folder": folder}) == "failed"
    assert runs.states(run_id)[task] == "failed"
    assert runs.tries(run_id, task) == 1
    assert runs.says(run_id, task, words)


def test_pages_in_the_ui_are_for_whoever_may_see_the_dag(deployment: Deployment) -> None:
    token = deployment.api._client.headers["Authorization"]
    for path, kind in (("crawls", "text/html"), ("crawls.json", "json"), ("page.css", "text/css")):
        url = f"{deployment.api_url}/lora-factory/{path}"
        assert httpx.get(url).status_code == 401
        answer = httpx.get(url, headers={"Authorization": token})
        assert kind in answer.headers["Content-Type"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for closed in ("docs", "openapi.json", "redoc"):
        answer = httpx.get(
            f"{deployment.api_url}/lora-factory/{closed}", headers={"Authorization": token}
        )
        assert answer.status_code == 404
    views = deployment.api.call("GET", "/plugins")["plugins"]
    ours = next(plugin for plugin in views if plugin["name"] == "lora_factory")
    assert [view["href"] for view in ours["external_views"]] == ["/lora-factory/crawls"]


def test_a_seed_that_does_not_answer_is_named(runs: Runs, deployment: Deployment) -> None:
    seed = deployment.site_url + "/no-such-page.html"
    conf = CONF | {"source": "web", "seeds": [seed], "folder": ""}
    assert runs("no-seed", conf) == "failed"
    assert runs.says("no-seed", "crawl", seed)
    assert runs.tries("no-seed", "crawl") == 1


def test_bad_ratings_lead_to_an_incremental_run(
    first: dict[str, Any], runs: Runs, deployment: Deployment, store: ArtifactStore
) -> None:
    body = {"prompt": "dog", "adapter": "e2e-icons", "steps": 1}
    for number in range(MIN_RATINGS):
        drawn = httpx.post(first["model"]["endpoint"], json=body, timeout=60).json()
        rating = {"rating_token": drawn["rating_token"], "rating": 0, "user": f"user{number}"}
        answer = httpx.post(f"{deployment.serve_url}/v1/feedback", json=rating)
        assert answer.status_code < 300, answer.text
    runs.api.unpause("lora_feedback_retrain")
    assert runs("daily", {}, "lora_feedback_retrain") == "success", runs.states(
        "daily", "lora_feedback_retrain"
    )
    listed = runs.api.call("GET", "/dags/lora_factory/dagRuns?limit=100")["dag_runs"]
    due = [run for run in listed if run["dag_run_id"].startswith("retrain__")]
    assert [run["dag_run_id"].split("__")[1] for run in due] == ["e2e-icons"]
    assert due[0]["conf"]["parent"] == first["model"]["lora"]
    runs.api.call(
        "PATCH", f"/dags/lora_factory/dagRuns/{due[0]['dag_run_id']}", {"state": "failed"}
    )

    assert runs("daily2", {}, "lora_feedback_retrain") == "success"
    listed = runs.api.call("GET", "/dags/lora_factory/dagRuns?limit=100")["dag_runs"]
    again = [run for run in listed if run["dag_run_id"].startswith("retrain__")]
    assert len(again) == 1, "never triggered twice"


@pytest.mark.slow
def test_an_incremental_run_goes_on_from_its_parent(
    first: dict[str, Any], runs: Runs, store: ArtifactStore
) -> None:
    conf = CONF | {"parent": first["model"]["lora"], "trigger": first["model"]["trigger"]}
    assert runs("incremental", conf) in {"success", "failed"}, "a copy of old data may not pass"
    train = runs.api.xcom("lora_factory", "incremental", "attempt_1.train")
    manifest = store.read_manifest(train["manifest_uri"])
    parent = next(entry for entry in manifest.inputs if entry.name == "parent")
    assert parent.manifest_uri == first["model"]["lora"].partition("#")[0]
    begun, fresh = (
        manifest.stats,
        store.read_manifest(first["stages"]["attempt_1.train"]["manifest_uri"]).stats,
    )
    assert begun["validation_loss_before"] < fresh["validation_loss_before"]


@pytest.mark.slow
def test_a_failed_attempt_is_refined_and_the_last_one_gives_up(
    first: dict[str, Any], runs: Runs, store: ArtifactStore
) -> None:
    assert first["verdict"] == "pass"  # its artifacts up to the plan are found again
    assert runs("refined", CONF | {"threshold": 0.99, "attempts": 2}) == "failed"
    states = runs.states("refined")
    assert {states[f"attempt_{n}.gate"] for n in (1, 2)} == {"success"}
    assert states["attempt_3.sanitize"] == states["deploy"] == "skipped"
    assert runs.says("refined", "result", "gave up after 2 attempt")
    stages = runs.api.xcom("lora_factory", "refined", "result")["stages"]
    sanitized = store.read_manifest(stages["attempt_2.sanitize"]["manifest_uri"])
    advice = next(entry for entry in sanitized.inputs if entry.name == "advice")
    assert advice.sha256 == stages["attempt_1.evaluate"]["sha256"]
    plans = [
        store.read_manifest(stages[f"attempt_{n}.tune"]["manifest_uri"]).stats["plan"]
        for n in (1, 2)
    ]
    assert [plan["epochs"] for plan in plans] == [1, 3]
