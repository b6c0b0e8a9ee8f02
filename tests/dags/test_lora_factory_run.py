"""Whole runs of the DAG in one process, with a fake child in place of each stage."""

from __future__ import annotations

import pytest

FOLDER = {"folder": "pictures"}
NEVER = "1000"
PARTS = {"crawl_plan", "crawl_work", "sanitize_plan", "sanitize_shard"}
WEB = {"source": "web", "seeds": ["http://127.0.0.1:8001/"], "stop_after": "crawl"}
REDIS = {"LORA_FACTORY_CRAWL_REDIS": "redis://:secret@127.0.0.1:1/3"}


def attempt(n: int) -> set[str]:
    names = ("sanitize", "label", "tune", "train", "evaluate", "gate")
    return {f"attempt_{n}.{name}" for name in names}


def spec_of(run, store, task_id):
    return store.read_manifest(run.xcom(task_id)["manifest_uri"]).spec


def test_pass_is_deployed(factory, monkeypatch):
    run = factory.run(monkeypatch, FOLDER)
    assert run.state == "success"
    assert run.states("success") == {"plan", "crawl", *attempt(1), "deploy", "result"}
    assert run.states("skipped") == attempt(2) | attempt(3) | {"approve"} | PARTS
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
    assert run.states("skipped") == attempt(3) | {"approve"} | PARTS
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
    assert run.states("skipped") == attempt(3) | {"approve", "deploy"} | PARTS
    result = run.xcom("result")
    assert (result["verdict"], result["attempts"], result["model"]) == ("fail", 2, None)
    report = factory.store.read_manifest(result["evaluation"])
    assert report.stats["verdict"] == "fail"
    assert result["evaluation"] == run.xcom("attempt_2.evaluate")["manifest_uri"]


UNDECIDED = {"LORA_FACTORY_FAKE_VERDICT": "needs_person"}


def test_what_no_scorer_can_pass_is_deployed_when_a_person_approves(factory, monkeypatch):
    run = factory.run(monkeypatch, FOLDER, answer="Approve", **UNDECIDED)
    assert run.state == "success"
    done = {"plan", "crawl", *attempt(1), "approve", "deploy", "result"}
    assert run.states("success") == done
    assert (
        run.states("skipped") == attempt(2) | attempt(3) | PARTS
    )  # trying again calibrates nothing
    approval = run.xcom("approve")
    assert approval["approved"]
    assert approval["by"] == "rita (id rita)"
    result = run.xcom("result")
    assert (result["verdict"], result["approval"]) == ("needs_person", approval)
    assert result["model"]["name"] == "blue-cats"
    released = factory.store.read_manifest(run.xcom("deploy")["manifest_uri"])
    assert released.stats["approved_by"] == f"rita (id rita) at {approval['at']}"


def test_what_a_person_rejects_ends_the_run_in_words(factory, monkeypatch, capsys):
    run = factory.run(monkeypatch, FOLDER, answer="Reject", **UNDECIDED)
    assert run.state == "failed"
    assert run.states("failed") == {"result"}
    assert run.tries("result") == 1
    assert run.states("skipped") == attempt(2) | attempt(3) | PARTS | {"deploy"}
    result = run.xcom("result")
    assert (result["verdict"], result["model"]) == ("needs_person", None)
    assert not result["approval"]["approved"]
    said = capsys.readouterr().out
    assert "release rejected by rita (id rita) at 2" in said
    assert f"the last report is {run.xcom('attempt_1.evaluate')['manifest_uri']}" in said
    assert "Verdict: needs_person" in said  # what the person was shown


def test_a_fail_asks_nobody(factory, monkeypatch):
    run = factory.run(
        monkeypatch,
        {**FOLDER, "attempts": 1},
        LORA_FACTORY_FAKE_PASS_EPOCHS=NEVER,
        **UNDECIDED,
    )
    assert run.state == "failed"
    assert {"approve", "deploy"} <= run.states("skipped")


def test_a_retrain_that_is_no_better_leaves_the_deployed_model(factory, monkeypatch, capsys):
    first = factory.run(monkeypatch, FOLDER)
    deployed = first.xcom("attempt_1.evaluate")["manifest_uri"]
    lora = first.xcom("attempt_1.train")["manifest_uri"]
    conf = {**FOLDER, "incumbent": deployed, "parent": lora, "attempts": 1, "epochs": 11}
    worse = factory.run(monkeypatch, conf)
    assert worse.state == "failed"
    assert worse.states("skipped") >= {"deploy", "approve"}
    assert worse.xcom("result")["model"] is None
    said = capsys.readouterr().out
    assert f"gates closed: beats_incumbent ({lora})" in said
    spec = spec_of(worse, factory.store, "attempt_1.evaluate")
    assert (spec["incumbent"], spec["incumbent_checkpoint"]) == (
        lora,
        "checkpoints/step-000080.safetensors",
    )
    assert spec_of(worse, factory.store, "attempt_1.train")["parent_checkpoint"] == (
        "checkpoints/step-000080.safetensors"
    )
    better = factory.run(monkeypatch, {**conf, "epochs": 12}, LORA_FACTORY_FAKE_BETTER="1")
    assert better.state == "success"
    assert better.xcom("result")["model"] is not None


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


# -- the crawl's parts ----------------------------------------------------------------------


def test_one_worker_is_planned_and_crawls_in_its_stage(factory, monkeypatch):
    run = factory.run(monkeypatch, WEB)
    assert run.states("success") == {"plan", "crawl_plan", "crawl", "result"}
    assert run.xcom("crawl_plan") == []
    spec = spec_of(run, factory.store, "crawl")
    assert spec["plan"] == run.xcom("crawl_plan", "plan")["manifest_uri"]
    assert set(run.xcom("result")["stages"]) == {"crawl"}


def test_workers_are_mapped_and_share_one_plan(factory, monkeypatch):
    run = factory.run(monkeypatch, {**WEB, "crawl_workers": 2}, **REDIS)
    assert run.state == "success"
    assert run.states("success") == {"plan", "crawl_plan", "crawl_work", "crawl", "result"}
    assert run.mapped == {"crawl_work": 2}
    plan = run.xcom("crawl_plan", "plan")["manifest_uri"]
    parts = [run.xcom("crawl_work", map_index=index)["manifest_uri"] for index in (0, 1)]
    specs = [factory.store.read_manifest(uri).spec for uri in parts]
    assert [spec["worker"] for spec in specs] == [1, 2]
    assert {spec["plan"] for spec in specs} == {plan}
    assert factory.store.read_manifest(plan).spec["workers"] == 2
    assert spec_of(run, factory.store, "crawl")["plan"] == plan
    assert run.xcom("result")["stages"]["crawl"]["manifest_uri"].count("/raw/") == 1


def test_a_worker_that_fails_for_now_is_tried_again(factory, monkeypatch):
    run = factory.run(
        monkeypatch,
        {**WEB, "crawl_workers": 2},
        LORA_FACTORY_FAKE_ERROR="crawl.work:Interrupted",
        LORA_FACTORY_FAKE_ONCE=str(factory.folder / "failed-once"),
        **REDIS,
    )
    assert run.state == "success"
    assert run.mapped == {"crawl_work": 2}


def test_workers_without_a_redis_fail_in_plan(factory, monkeypatch, capsys):
    run = factory.run(monkeypatch, {**WEB, "crawl_workers": 2})
    assert run.states("failed") == {"plan"}
    assert run.tries("plan") == 1
    assert "this deployment has no Redis for them to share" in capsys.readouterr().out


def test_a_run_that_starts_later_has_no_parts_of_a_crawl(factory, monkeypatch):
    first = factory.run(monkeypatch, {**WEB, "crawl_workers": 2}, **REDIS)
    conf = {**WEB, "start_from": first.xcom("crawl")["manifest_uri"], "stop_after": "sanitize"}
    second = factory.run(monkeypatch, {**conf, "crawl_workers": 2})
    assert second.states("success") == {"plan", "attempt_1.sanitize", "result"}
    part = first.xcom("crawl_work", map_index=0)["manifest_uri"]
    third = factory.run(monkeypatch, {**WEB, "start_from": part})
    assert third.states("failed") == {"plan"}


# -- sanitize's shards ----------------------------------------------------------------------


def test_a_large_crawl_is_sanitized_in_shards_that_every_attempt_reads(factory, monkeypatch):
    env = {"LORA_FACTORY_FAKE_KEPT": "5001", "LORA_FACTORY_FAKE_PASS_EPOCHS": "12"}
    run = factory.run(monkeypatch, {**FOLDER, "max_images": 10_000, "attempts": 2}, **env)
    assert run.state == "success"
    assert run.states("success") >= {"sanitize_plan", "sanitize_shard", *attempt(2)}
    assert run.mapped == {"sanitize_shard": 2}
    parts = [run.xcom("sanitize_shard", map_index=index)["manifest_uri"] for index in (0, 1)]
    specs = [factory.store.read_manifest(uri).spec for uri in parts]
    assert [(spec["shard"], spec["shards"]) for spec in specs] == [(0, 2), (1, 2)]
    assert {spec["raw"] for spec in specs} == {run.xcom("crawl")["manifest_uri"]}
    first, second = (spec_of(run, factory.store, f"attempt_{n}.sanitize") for n in (1, 2))
    assert first["parts"] == second["parts"] == parts
    assert (first["advice"], second["advice"]) == (
        None,
        run.xcom("attempt_1.evaluate")["manifest_uri"],
    )


def test_a_crawl_that_turns_out_small_is_one_shard(factory, monkeypatch):
    conf = {**FOLDER, "max_images": 10_000, "stop_after": "sanitize"}
    run = factory.run(monkeypatch, conf)
    assert run.state == "success"
    assert run.states("success") == {
        *("plan", "crawl", "sanitize_plan", "attempt_1.sanitize", "result")
    }
    assert run.xcom("sanitize_plan") == []
    assert spec_of(run, factory.store, "attempt_1.sanitize")["parts"] == []
