"""The optimise DAG with a fake child: what passes again is kept, what can't be made fails alone."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from dag_runs import Factory, Run, load_dag
from fake_stage import commit

from lora_factory.contracts import specs

pytestmark = pytest.mark.integration


def optimise(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, steps: list[str], verdict: str = "pass"
) -> Run:
    """A run on an evaluated LoRA; ``verdict``: of what is judged in it."""
    for name, value in factory.environment.items():
        monkeypatch.setenv(name, value)
    conf = {"evaluation": evaluated(), "steps": steps}
    monkeypatch.setenv("LORA_FACTORY_FAKE_VERDICT", verdict)
    return Run(load_dag("lora_optimise").test(run_conf=conf))


def evaluated() -> str:
    """URI of an evaluation, with all that it was made of."""
    raw = commit("crawl", specs.CrawlSpec(topics=("cats",), as_of=date(2026, 1, 1)))
    clean = commit("sanitize", specs.SanitizeSpec(raw=raw.manifest_uri))
    label = specs.LabelSpec(clean=clean.manifest_uri, topics=("cats",))
    dataset = commit("label", label).manifest_uri
    plan = commit("tune", specs.TuneSpec(dataset=dataset)).manifest_uri
    lora = commit("train", specs.TrainSpec(dataset=dataset, plan=plan)).manifest_uri
    return commit("evaluate", specs.EvaluateSpec(lora=lora, dataset=dataset)).manifest_uri


def rows(run: Run) -> dict[str, dict[str, Any]]:
    return {row["step"]: row for row in run.xcom("keep")}


def test_builds_are_made_judged_and_kept(factory, monkeypatch):
    run = optimise(factory, monkeypatch, ["fuse", "onnx", "compile"])
    assert run.state == "success"
    assert run.mapped == {"build.optimise": 3, "build.judge": 3}
    found = rows(run)
    assert list(found) == ["onnx", "fuse", "compile"], "the fastest first"
    assert {step: row["kept"] for step, row in found.items()} == {
        "onnx": True,
        "fuse": True,
        "compile": False,  # not worthwhile: never judged
    }
    assert found["onnx"]["speedup"] == 2.5
    assert found["compile"]["evaluation"] is None
    build = factory.store.read_manifest(found["onnx"]["evaluation"])
    assert {entry.name for entry in build.inputs} == {"lora", "dataset", "build"}


def test_what_fails_the_gate_again_is_not_kept(factory, monkeypatch):
    run = optimise(factory, monkeypatch, ["fuse"], verdict="fail")
    assert run.state == "success"
    assert rows(run)["fuse"]["kept"] is False


def test_a_lora_that_did_not_pass_gets_no_builds(factory, monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_FAKE_VERDICT", "fail")
    run = optimise(factory, monkeypatch, ["fuse"])
    assert run.states("failed") == {"plan"}
    assert run.tries("plan") == 1
