"""Whole runs of the DAG in one process, with a fake child in place of each stage."""

from __future__ import annotations

import pytest

FOLDER = {"folder": "pictures"}
NEVER = "1000"


def attempt(n: int) -> set[str]:
    names = ("sanitize", "label", "tune", "train", "evaluate", "gate")
    return {f"attempt_{n}.{name}" for name in names}


def spec_of(run, store, task_id):
    return store.read_manifest(run.xcom(task_id)["manifest_uri"]).spec


def test_pass_is_deployed(factory, monkeypatch):
    run = factory.run(monkeypatch, FOLDER)
    assert run.state == "success"
    assert run.states("success") == {"plan", "crawl", *attempt(1), "deploy", "result"}
    assert run.states("skipped") == attempt(2) | attempt(3)
    result = run.xcom("result")
    assert (result["verdict"], result["attempts"], result["overall"]) == ("pass", 1, 0.9)
    assert result["model"]["name"] == "blue-cats"
    assert result["model"]["endpoint"].endswith("/generate")
    assert next(iter(result["stages"])) == "crawl"
    assert list(result["stages"])[-1] == "deploy"
    assert result["stages"]["crawl"]["seconds"] > 0
    conf = spec_of(run, factory.store, "deploy")["conf"]
    assert conf["name"] == "blue-cats"
    assert conf["as_of"] is None  # a retrain crawls anew


def test_fail_refines_the_next_attempt(factory, monkeypatch):
    run = factory.run(monkeypatch, FOLDER, LORA_FACTORY_FAKE_PASS_EPOCHS="12")
    assert run.state == "success"
    assert run.states("success") >= attempt(1) | attempt(2) | {"deploy", "result"}
    assert run.states("skipped") == attempt(3)
    advice = run.xcom("attempt_1.evaluate")["manifest_uri"]
    for stage in ("sanitize", "label", "tune"):
        assert spec_of(run, factory.store, f"attempt_1.{stage}")["advice"] is None
        assert spec_of(run, factory.store, f"attempt_2.{stage}")["advice"] == advice
    assert spec_of(run, factory.store, "attempt_1.tune")["epochs"] == 10
    assert spec_of(run, factory.store, "attempt_2.tune")["epochs"] == 12
    released = spec_of(run, factory.store, "deploy")
    assert released["lora"] == run.xcom("attempt_2.train")["manifest_uri"]
    assert released["evaluation"] == run.xcom("attempt_2.evaluate")["manifest_uri"]
    assert run.xcom("result")["attempts"] == 2


def test_last_failure_gives_up_with_a_report(factory, monkeypatch):
    run = factory.run(monkeypatch, {**FOLDER, "attempts": 2}, LORA_FACTORY_FAKE_PASS_EPOCHS=NEVER)
    assert run.state == "failed"
    assert run.states("failed") == {"result"}
    assert run.tries("result") == 1
    assert run.states("skipped") == attempt(3) | {"deploy"}
    result = run.xcom("result")
    assert (result["verdict"], result["attempts"], result["model"]) == ("fail", 2, None)
    report = factory.store.read_manifest(result["evaluation"])
    assert report.stats["verdict"] == "fail"
    assert result["evaluation"] == run.xcom("attempt_2.evaluate")["manifest_uri"]


def test_bad_conf_fails_in_plan_at_once(factory, monkeypatch, capsys):
    run = factory.run(monkeypatch, {**FOLDER, "epoch": 3, "treshold": 0.5})
    assert run.state == "failed"
    assert run.states("failed") == {"plan"}
    assert run.tries("plan") == 1
    assert run.states("upstream_failed") == set(run.instances) - {"plan"}
    assert "unknown key(s) in the run's conf: epoch, treshold; allowed: " in capsys.readouterr().out


def test_any_part_is_a_run(factory, monkeypatch):
    first = factory.run(monkeypatch, {**FOLDER, "stop_after": "label"})
    assert first.state == "success"
    done = {"plan", "crawl", "attempt_1.sanitize", "attempt_1.label", "result"}
    assert first.states("success") == done
    assert first.xcom("result")["verdict"] is None
    dataset = first.xcom("attempt_1.label")["manifest_uri"]

    second = factory.run(monkeypatch, {"start_from": dataset, "stop_after": "train", **FOLDER})
    assert second.state == "success"
    done = {"plan", "attempt_1.tune", "attempt_1.train", "result"}
    assert second.states("success") == done
    assert second.states("skipped") == set(second.instances) - done
    assert spec_of(second, factory.store, "attempt_1.train")["dataset"] == dataset
    lora = second.xcom("attempt_1.train")["manifest_uri"]

    third = factory.run(monkeypatch, {"start_from": lora, "threshold": 0.6, **FOLDER})
    assert third.state == "success"
    assert third.states("success") == {
        *("plan", "attempt_1.evaluate", "attempt_1.gate", "deploy", "result")
    }
    assert spec_of(third, factory.store, "deploy")["lora"] == lora


@pytest.mark.parametrize(
    ("error", "state", "tries"), [("ServiceUnavailable", "success", 2), ("DataError", "failed", 1)]
)
def test_only_transient_errors_are_retried(factory, monkeypatch, error, state, tries):
    run = factory.run(
        monkeypatch,
        {**FOLDER, "stop_after": "crawl"},
        LORA_FACTORY_FAKE_ERROR=f"crawl:{error}",
        LORA_FACTORY_FAKE_ONCE=str(factory.folder / "failed-once"),
    )
    assert run.state == state
    assert run.tries("crawl") == tries
    assert run.states("skipped") >= attempt(2) | attempt(3) | {"deploy"}
