"""API keys and jobs over real HTTP."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from lora_factory.__main__ import main
from lora_factory.contracts.serving import Job
from lora_factory.store.catalog import Catalog
from serving_app import ADMIN, Server

pytestmark = pytest.mark.integration
BODY = {"prompt": "a red apple", "seed": 7, "steps": 2}


@pytest.fixture
def command(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """``python -m lora_factory apikey …`` on the server's catalog; returns what it printed."""
    monkeypatch.setenv("LORA_FACTORY_CATALOG", server.dsn)

    def run(*words: str) -> str:
        capsys.readouterr()
        status = main(["apikey", *words])
        return capsys.readouterr().out.strip() if status == 0 else f"failed {status}"

    return run


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_key_is_made_listed_used_and_revoked(server: Server, command: Any) -> None:
    key = command("create", "web shop", "--scope", "generate", "--per-minute", "2")
    identity = key.split("_")[1]
    listed = next(line for line in command("list").splitlines() if identity in line)
    assert "web shop  generate  2/min" in listed
    assert key.split("_")[2] not in listed
    answers = [server.client.post("/v1/generate", json=BODY, headers=bearer(key)) for _ in "123"]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert server.client.post("/v1/adapters", headers=bearer(key)).status_code == 403
    assert server.client.post("/v1/feedback", json={}, headers=bearer(key)).status_code == 403
    assert command("revoke", identity) == ""
    assert command("revoke", identity) == "failed 1"
    assert "revoked" in next(line for line in command("list").splitlines() if identity in line)
    time.sleep(5.1)  # as long as a key is trusted unseen
    assert server.client.post("/v1/generate", json=BODY, headers=bearer(key)).status_code == 401


def test_impossible_keys_are_refused(command: Any) -> None:
    assert command("create", " ") == "failed 1"
    assert command("create", "x", "--per-minute", "0") == "failed 1"


def test_the_catalog_keeps_no_secret(server: Server) -> None:
    catalog = Catalog(server.dsn)
    whole, kept = catalog.add_api_key("x", ["admin"], 10)
    assert catalog.api_key(whole) == kept
    for wrong in (whole[:-1], whole + "x", f"lf_{kept.id}_", "", "lf__", "\ud800", "a_b_c"):
        assert catalog.api_key(wrong) is None


def wait(server: Server, identity: str, headers: dict[str, str] | None = None) -> Job:
    deadline = time.monotonic() + 30
    while True:
        answer = server.client.get(f"/v1/jobs/{identity}", headers=headers)
        job = Job.model_validate(answer.json())
        if job.state in {"done", "failed"}:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def test_a_job_is_fetched_when_it_is_done(server: Server) -> None:
    asked = server.client.post("/v1/jobs", json=BODY | {"steps": 20})
    assert asked.status_code == 202
    job = Job.model_validate(asked.json())
    assert asked.headers["location"] == f"/v1/jobs/{job.id}"
    assert job.result is None
    done = wait(server, job.id)
    assert done.state == "done"
    assert done.result is not None
    at_once = server.draw(steps=20).json()
    assert (done.result.seed, done.result.marks) == (7, tuple(at_once["marks"]))
    picture = Image.open(io.BytesIO(base64.b64decode(done.result.image)))
    direct = Image.open(io.BytesIO(base64.b64decode(at_once["image"])))
    assert picture.tobytes() == direct.tobytes()
    assert server.client.delete(f"/v1/jobs/{job.id}").status_code == 204
    assert server.client.get(f"/v1/jobs/{job.id}").status_code == 404


def test_a_job_is_its_owners(server: Server) -> None:
    job = server.client.post("/v1/jobs", json=BODY, headers=ADMIN).json()
    assert wait(server, job["id"], ADMIN).state == "done"
    for call in (server.client.get, server.client.delete):
        assert call(f"/v1/jobs/{job['id']}").status_code == 404
    assert server.client.get("/v1/jobs/../../etc/passwd").status_code == 404
    assert server.client.get(f"/v1/jobs/{'0' * 31}x").status_code == 422


def test_a_job_that_waits_can_be_given_up(server: Server) -> None:
    slow = [server.client.post("/v1/jobs", json=BODY | {"steps": 100}) for _ in range(9)]
    last = slow[-1].json()["id"]
    for answer in reversed(slow):
        assert server.client.delete(f"/v1/jobs/{answer.json()['id']}").status_code == 204
    assert server.client.get(f"/v1/jobs/{last}").status_code == 404
    assert server.draw().status_code == 200


def test_a_full_queue_says_when_to_come_back(server: Server) -> None:
    answers: list[httpx.Response] = []
    while len(answers) < 60 and (not answers or answers[-1].status_code == 202):
        answers.append(server.client.post("/v1/jobs", json=BODY | {"steps": 100, "guidance": 9}))
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    for answer in answers[:-1]:
        server.client.delete(f"/v1/jobs/{answer.json()['id']}")


def test_a_refused_prompt_makes_no_job(server: Server) -> None:
    answer = server.client.post("/v1/jobs", json=BODY | {"adapter": "nobody"})
    assert answer.status_code == 404
