"""The serving app over real HTTP, with the embedded base and a real catalog."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg2
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from lora_factory.guard.provenance.c2pa import read_credentials
from lora_factory.serve.keys import RatingTokens, load_key
from serving_app import ADMIN, Server

pytestmark = pytest.mark.integration
Make = Callable[[int, float], Path]


def pixels(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["image"]))))


def reason(answer: httpx.Response) -> str:
    """The one line that every refusal carries."""
    body = answer.json()
    assert set(body) <= {"error", "rule"}
    assert "\n" not in body["error"]
    return str(body["error"])


def metric(server: Server, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture
def live(server: Server, make_lora: Make) -> str:
    """A promoted version of ``icons``."""
    published = server.publish(make_lora(1, 0.05))
    assert published.status_code == 201, published.text
    version = str(published.json()["version"])
    assert server.promote(version).status_code == 200
    return version


# -- drawing


def test_the_base_draws_the_same_picture_for_the_same_seed(server: Server) -> None:
    first = server.draw()
    assert pixels(first).shape == (64, 64, 3)
    assert np.array_equal(pixels(first), pixels(server.draw()))
    assert not np.array_equal(pixels(first), pixels(server.draw(seed=8)))
    body = first.json()
    assert (body["adapter"], body["version"], body["rating_token"]) == (None, None, None)
    assert uuid.UUID(body["generation_id"])


def test_a_live_adapter_changes_the_picture_and_strength_scales_it(
    server: Server, live: str
) -> None:
    base = pixels(server.draw()).astype(float)
    full = server.draw(adapter="icons")
    assert (full.json()["adapter"], full.json()["version"]) == ("icons", live)
    none = pixels(server.draw(adapter="icons", strength=0)).astype(float)
    half = pixels(server.draw(adapter="icons", strength=0.5)).astype(float)
    assert np.abs(none - base).max() <= 2
    assert 0 < np.abs(half - base).mean() < np.abs(pixels(full).astype(float) - base).mean()
    listed = server.client.get("/v1/adapters").json()["adapters"]
    expected = {
        "name": "icons",
        "version": live,
        "base": "emoji",
        "trigger": "icnx",
        "overall": 0.9,
        "taken_down": False,
    }
    assert expected in listed


def test_a_random_seed_is_told(server: Server) -> None:
    first = server.draw(prompt="a cat", seed=None, steps=1)
    again = server.draw(prompt="a cat", seed=first.json()["seed"], steps=1)
    assert np.array_equal(pixels(again), pixels(first))


def test_every_picture_says_what_made_it_and_nothing_of_what_was_asked(
    server: Server, live: str
) -> None:
    body = server.draw(adapter="icons", prompt="a marzipan pig").json()
    data = base64.b64decode(body["image"])
    found = read_credentials(data, (server.data / "provenance" / "trust.pem").read_text())
    assert found is not None
    assert (found.state, found.generated) == ("Trusted", True)
    assert body["marks"] == ["c2pa"]  # 64 pixels hold no watermark
    assert (found.generation["adapter"], found.generation["version"]) == ("icons", live)
    assert found.generation["lora_sha256"].startswith(live)
    told = {"base", "base_revision", "adapter", "version", "lora_sha256"}
    assert set(found.generation) == told  # no prompt, no seed, no user
    assert b"marzipan" not in data
    base = read_credentials(base64.b64decode(server.draw().json()["image"]))
    assert base is not None
    assert set(base.generation) == {"base", "base_revision"}
    assert metric(server, "lora_marking_duration_seconds_count") >= 2


def test_many_at_once_get_their_own_pictures_or_a_429(server: Server, live: str) -> None:
    alone = {seed: pixels(server.draw(seed=seed, adapter="icons")) for seed in range(4)}
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        asked = [seed % 4 for seed in range(40)]
        answers = list(pool.map(lambda seed: server.draw(seed=seed, adapter="icons"), asked))
    assert {answer.status_code for answer in answers} <= {200, 429}
    drawn = [(s, a) for s, a in zip(asked, answers, strict=True) if a.status_code == 200]
    assert len(drawn) >= 4
    for seed, answer in drawn:
        difference = np.abs(alone[seed].astype(float) - pixels(answer).astype(float))
        assert difference.max() <= 2
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "5"
            assert reason(answer)


# -- bad requests


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "   "}, "prompt"),
        ({"prompt": "x" * 501}, "prompt"),
        ({"prompt": "a\nb"}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"prompt": "a\u2028b"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"adapter": "../../etc/passwd"}, "adapter"),
        ({"adapter": "UPPER"}, "adapter"),
        ({"adapter": ""}, "adapter"),
        ({"adapter": "icons", "version": "../x"}, "version"),
        ({"version": "aaaaaaaaaaaa"}, "version"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
        ({"guidance": 0.5}, "guidance"),
        ({"strength": 2.1}, "strength"),
        ({"width": 4096}, "width"),
    ],
)
def test_bad_requests_get_one_line(server: Server, change: dict[str, Any], where: str) -> None:
    answer = server.draw(**change)
    assert answer.status_code == 422
    assert reason(answer).startswith(where)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(server: Server, value: str) -> None:
    body = f'{{"prompt": "x", "strength": {value}}}'
    headers = {"content-type": "application/json"}
    answer = server.client.post("/v1/generate", content=body, headers=headers)
    assert answer.status_code == 422
    assert reason(answer)


@pytest.mark.parametrize(
    "body", ["", "[]", "nonsense", '"x"', "[" * 30000, '{"prompt": "\\ud800"}']
)
def test_bodies_that_are_no_request_are_refused(server: Server, body: str) -> None:
    headers = {"content-type": "application/json"}
    answer = server.client.post("/v1/generate", content=body, headers=headers)
    assert answer.status_code in {400, 422}
    assert reason(answer)
    assert "nonsense" not in answer.text, "what was sent is not sent back"


def test_a_huge_body_is_cut_with_and_without_a_length(server: Server) -> None:
    huge = json.dumps({"prompt": "x" * 100_000}).encode()
    headers = {"content-type": "application/json"}
    assert server.client.post("/v1/generate", content=huge, headers=headers).status_code == 413
    chunks = (huge[start : start + 1000] for start in range(0, len(huge), 1000))
    assert server.client.post("/v1/generate", content=chunks, headers=headers).status_code == 413
    assert server.draw().status_code == 200


def test_a_blocked_prompt_names_its_rule_and_is_counted(server: Server) -> None:
    before = metric(server, "lora_safety_blocks_total", rule="violence")
    answer = server.draw(prompt="a decapitated corpse, gore")
    assert answer.status_code == 422
    assert answer.json()["rule"] == "violence"
    assert metric(server, "lora_safety_blocks_total", rule="violence") == before + 1


def test_an_unknown_adapter_is_not_found(server: Server) -> None:
    assert server.draw(adapter="nobody").status_code == 404
    assert server.client.post("/v1/nothing").status_code == 404
    assert reason(server.client.get("/v1/generate"))


# -- rating


def rate(
    server: Server,
    token: str,
    rating: Any = 1.0,
    user: str = "ann",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    body = {"rating_token": token, "rating": rating, "user": user, "reason": "crisp"}
    return server.client.post("/v1/feedback", json=body, headers=headers)


def test_a_picture_is_rated_once_by_each_user(server: Server, live: str) -> None:
    drawn = server.draw(adapter="icons").json()
    token = drawn["rating_token"]
    assert rate(server, token, 0.25, headers=ADMIN).status_code == 201
    assert rate(server, token, 1.0, headers=ADMIN).status_code == 409
    assert rate(server, token, 1.0, user="bob", headers=ADMIN).status_code == 201
    connection = psycopg2.connect(server.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT rating, reason, user_pseudonym, g.version, g.prompt_sha256 FROM feedback "
            "JOIN generations AS g ON g.id = generation_id WHERE generation_id = %s "
            "ORDER BY feedback.id",
            (drawn["generation_id"],),
        )
        rows = cursor.fetchall()
    connection.close()
    assert [row[0] for row in rows] == [0.25, 1.0]
    assert {row[3] for row in rows} == {live}
    assert rows[0][4] == hashlib.sha256(b"a red apple").hexdigest()
    assert "ann" not in rows[0][2]


def test_names_that_nobody_vouches_for_count_once(server: Server, live: str) -> None:
    token = server.draw(adapter="icons").json()["rating_token"]
    assert rate(server, token, 1.0, user="ann").status_code == 201
    assert rate(server, token, 1.0, user="an invented name").status_code == 409


def test_forged_expired_and_foreign_tokens_are_refused(server: Server, live: str) -> None:
    token = server.draw(adapter="icons").json()["rating_token"]
    key = load_key(server.data)
    forged = RatingTokens(b"x" * 32).issue(str(uuid.uuid4()))
    assert rate(server, forged).status_code == 403
    assert rate(server, token[:-4] + "AAAA").status_code == 403
    old = RatingTokens(key)._signer
    head = token.rsplit(".", 2)[0]
    expired = old.get_signature(head + ".AAAAAA").decode()
    answer = rate(server, f"{head}.AAAAAA.{expired}")
    assert answer.status_code == 403
    assert "expired" in reason(answer)
    unknown = RatingTokens(key).issue(str(uuid.uuid4()))
    assert rate(server, unknown).status_code == 404
    for rating in (-0.1, 1.1, "good", None):
        assert rate(server, token, rating).status_code == 422
    assert rate(server, token, 0.0).status_code == 201, "refusals used nothing up"


# -- administration


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/adapters"),
        ("POST", "/v1/adapters/icons/promote"),
        ("POST", "/v1/adapters/icons/rollback"),
        ("DELETE", "/v1/adapters/icons"),
    ],
)
def test_administration_needs_the_key(server: Server, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
        answer = server.client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert reason(answer)


def test_the_file_of_a_version_can_be_had_back(server: Server, live: str, make_lora: Make) -> None:
    answer = server.client.get("/v1/adapters/icons/file", headers=ADMIN)
    assert answer.content == make_lora(1, 0.05).read_bytes()
    assert hashlib.sha256(answer.content).hexdigest() == answer.headers["x-sha256"]
    assert f"icons-{live}.safetensors" in answer.headers["content-disposition"]
    for path in ("nobody/file", f"icons/file?version={'0' * 12}"):
        assert server.client.get(f"/v1/adapters/{path}", headers=ADMIN).status_code == 404
    assert server.client.get(
        "/v1/adapters/..%2f..%2frating.key/file", headers=ADMIN
    ).status_code in {
        404,
        422,
    }
    assert server.client.get("/v1/adapters/icons/file").status_code == 401


def test_a_candidate_is_for_the_administrator_until_promoted(
    server: Server, live: str, make_lora: Make
) -> None:
    candidate = server.publish(make_lora(2, 0.05)).json()
    assert candidate["state"] == "candidate"
    body = {
        "prompt": "a red apple",
        "seed": 7,
        "steps": 2,
        "adapter": "icons",
        "version": candidate["version"],
    }
    assert server.client.post("/v1/generate", json=body).status_code == 403
    drawn = server.client.post("/v1/generate", json=body, headers=ADMIN)
    assert drawn.json()["version"] == candidate["version"]
    assert drawn.json()["rating_token"] is None
    assert server.draw(adapter="icons").json()["version"] == live

    promoted = server.promote(candidate["version"]).json()
    assert promoted["previous"] == live
    assert server.promote(candidate["version"]).json() == promoted
    assert server.draw(adapter="icons").json()["version"] == candidate["version"]
    back = server.client.post("/v1/adapters/icons/rollback", headers=ADMIN).json()
    assert back["version"] == live
    assert server.draw(adapter="icons").json()["version"] == live


def test_retiring_takes_an_adapter_away(server: Server, make_lora: Make) -> None:
    version = server.publish(make_lora(3, 0.05), name="short-lived").json()["version"]
    assert server.promote(version, "short-lived").status_code == 200
    assert server.draw(adapter="short-lived").status_code == 200
    assert server.client.delete("/v1/adapters/short-lived", headers=ADMIN).status_code == 204
    assert server.draw(adapter="short-lived").status_code == 404
    assert server.client.delete("/v1/adapters/short-lived", headers=ADMIN).status_code == 404
    assert server.promote(version, "short-lived").status_code == 404
    none = server.client.post("/v1/adapters/short-lived/rollback", headers=ADMIN)
    assert none.status_code == 404


def test_damaged_and_foreign_uploads_are_refused_and_leave_nothing(
    server: Server, live: str, make_lora: Make, tmp_path: Path
) -> None:
    good = make_lora(4, 0.05).read_bytes()
    before = sorted(path.name for path in (server.data / "adapters").rglob("*"))
    for number, content in enumerate((good[: len(good) // 2], b"not safetensors", b"")):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(content)
        answer = server.publish(file)
        assert answer.status_code == 422
        assert reason(answer).startswith("lora")
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(good)
    assert "sha256" in reason(server.publish(whole, sha256="0" * 64))
    for change in (
        {"name": "../x"},
        {"version": "zz"},
        {"overall": 2},
        {"base": "sdxl"},
        {"sha256": "x"},
        {"state": "deployed"},
        {"trigger": "a b"},
    ):
        answer = server.publish(whole, **change)
        assert answer.status_code == 422, change
        assert next(iter(change)) in reason(answer)
    for form in ({"metadata": "{"}, {"other": "x"}):
        files = {"lora": ("x", good)}
        answer = server.client.post("/v1/adapters", data=form, files=files, headers=ADMIN)
        assert answer.status_code == 422
    assert server.client.post("/v1/adapters", content=b"x", headers=ADMIN).status_code == 422
    assert sorted(path.name for path in (server.data / "adapters").rglob("*")) == before
    assert server.draw(adapter="icons").json()["version"] == live, "the service goes on"


def test_a_taken_version_keeps_its_bytes(server: Server, make_lora: Make) -> None:
    version = server.publish(make_lora(5, 0.05)).json()["version"]
    answer = server.publish(make_lora(6, 0.05), version=version)
    assert answer.status_code == 409
    assert "other bytes" in reason(answer)


def test_a_file_that_rots_on_disk_is_refused_when_it_is_loaded(
    server: Server, live: str, make_lora: Make
) -> None:
    model = server.publish(make_lora(8, 0.05), name="rotten").json()
    server.promote(model["version"], "rotten")
    path = server.data / "adapters" / f"{model['sha256']}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    answer = server.draw(adapter="rotten")
    assert answer.status_code == 500
    assert "damaged on disk" in reason(answer)
    path.unlink()
    assert server.promote(model["version"], "rotten").status_code == 409
    assert server.draw(adapter="icons").status_code == 200


# -- around


def test_health_metrics_and_openapi(server: Server, live: str) -> None:
    assert server.client.get("/healthz").json() == {"status": "ok"}
    ready = server.client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["image_key"].startswith("self-made, sha256 ")
    before = metric(server, "lora_generations_total", adapter="icons")
    server.draw(adapter="icons")
    assert metric(server, "lora_generations_total", adapter="icons") == before + 1
    route = {"route": "/v1/generate", "method": "POST", "code": "200"}
    assert metric(server, "lora_http_requests_total", **route) >= 1
    assert metric(server, "lora_http_requests_total", route="other", code="404") >= 0
    assert metric(server, "lora_queue_depth") == 0
    assert metric(server, "lora_adapter_loads") >= 1


def test_the_api_describes_itself(server: Server) -> None:
    told = server.client.get("/openapi.json").json()
    paths = told["paths"]
    assert {"/v1/generate", "/v1/feedback", "/v1/adapters", "/healthz"} <= set(paths)
    draw = paths["/v1/generate"]["post"]
    assert {"200", "401", "422", "429", "503"} <= set(draw["responses"])
    assert draw["security"], "that a key is needed"
    assert "security" not in paths["/healthz"]["get"]
    for name in ("GenerateRequest", "GenerateResponse", "FeedbackRequest", "Job"):
        assert told["components"]["schemas"][name]["examples"]
    shown = told["components"]["schemas"]["GenerateRequest"]["examples"][1]
    assert server.draw(**shown | {"steps": 1}).status_code == 200


def test_a_client_that_leaves_is_not_drawn_for(server: Server) -> None:
    left = {"route": "/v1/generate", "method": "POST", "code": "499"}
    before = metric(server, "lora_http_requests_total", **left)
    body = {"prompt": "a red apple", "seed": 7, "steps": 100}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/generate", json=body, timeout=0.7)
    deadline = time.monotonic() + 30
    while metric(server, "lora_http_requests_total", **left) == before:
        assert time.monotonic() < deadline, "nobody noticed that the client left"
        time.sleep(0.1)
    assert server.draw(steps=1).status_code == 200
    assert metric(server, "lora_queue_depth") == 0


def test_the_page_runs_only_its_own_script(server: Server) -> None:
    page = server.client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "<script>" not in page.text
    assert server.client.get("/static/page.js").status_code == 200
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert server.client.get(path).status_code == 404
