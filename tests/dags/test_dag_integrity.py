"""What a DAG file must be, whatever it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from dag_runs import PATHS, ROOT

FILES = sorted((ROOT / "dags").glob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "scrapy", "numpy", "pandas", "boto3", "PIL")


@pytest.fixture(scope="module")
def bag():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags"))


@pytest.fixture(scope="module")
def dag(bag):
    return bag.dags["lora_factory"]


def test_everything_imports(bag):
    assert bag.import_errors == {}
    assert set(bag.dags) == {"lora_factory", "lora_feedback_retrain", "lora_optimise"}


def test_house_rules(bag):
    for dag in bag.dags.values():
        assert "lora-factory" in dag.tags
        assert dag.doc_md
        assert not dag.catchup
        for task in dag.tasks:
            assert task.retries == 2, task.task_id


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_are_wiring(file):
    assert len(file.read_text().splitlines()) <= 140


def test_parsing_imports_nothing_heavy():
    """In a process of its own; not even what Airflow itself would have imported first."""
    code = (
        "import runpy, sys\n"
        f"for file in {[str(file) for file in FILES]!r}: runpy.run_path(file)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | PATHS,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_accelerators_are_used_from_the_pool_and_queue(dag):
    for task in dag.tasks:
        gpu = task.task_id.endswith((".train", ".evaluate"))
        assert (task.pool == "gpu") == gpu, task.task_id
        assert (task.queue == "gpu") == gpu, task.task_id


def test_pools_are_declared(bag):
    declared = json.loads((ROOT / "include/deploy/pools.json").read_text())
    used = {task.pool for dag in bag.dags.values() for task in dag.tasks} - {"default_pool"}
    assert used == set(declared)


def test_nothing_is_deployed_without_its_gate(dag):
    upstream = dag.get_task("deploy").upstream_task_ids
    assert {f"attempt_{n}.gate" for n in (1, 2, 3)} <= upstream
    for n in (1, 2, 3):
        gate = dag.get_task(f"attempt_{n}.gate")
        assert f"attempt_{n}.evaluate" in gate.upstream_task_ids
        ends = {gate.if_passed, gate.if_given_up, gate.if_undecided}
        assert ends == {"deploy", "result", "approve"}
        assert gate.task_id in dag.get_task("approve").upstream_task_ids
        if n < 3:
            assert gate.if_failed == f"attempt_{n + 1}.sanitize"
            assert gate.if_failed in gate.downstream_task_ids


def test_a_crawl_waits_for_its_plan_and_its_workers(dag):
    """Also where one worker is enough and the plan task skips crawl_work before it is made."""
    assert dag.get_task("crawl").upstream_task_ids == {"plan", "crawl_plan", "crawl_work"}
    assert dag.get_task("crawl_work").upstream_task_ids == {"plan", "crawl_plan"}


def test_attempts_wait_for_the_shards(dag):
    """Also where one is enough and they are skipped at once."""
    assert dag.get_task("sanitize_shard").upstream_task_ids == {"plan", "crawl", "sanitize_plan"}
    for n in (1, 2, 3):
        upstream = dag.get_task(f"attempt_{n}.sanitize").upstream_task_ids
        assert {"crawl", "sanitize_plan", "sanitize_shard"} <= upstream


def test_every_task_leads_to_the_result(dag):
    everything = {task.task_id for task in dag.tasks} - {"result"}
    assert dag.get_task("result").upstream_task_ids == everything
    assert dag.leaves == [dag.get_task("result")]


def test_plan_knows_every_task_that_it_may_skip(dag):
    stages = dag.get_task("plan").stages
    assert set(stages) == {task.task_id for task in dag.tasks} - {"plan", "result"}
    for task_id, (stage, attempt) in stages.items():
        task = dag.get_task(task_id)
        if task_id != "approve":
            operator = getattr(task, "operator_class", type(task))  # of a mapped task
            assert getattr(operator, "stage", "gate") == stage
        name = "sanitize_plan" if task_id == "sanitize_plan" else stage.replace(".", "_")
        assert task_id == (f"attempt_{attempt}.{stage}" if attempt else name)


def test_a_person_is_asked_before_deploying_and_can_only_choose_what_exists(dag):
    approve = dag.get_task("approve")
    assert approve.options_mapping == {"Approve": "deploy", "Reject": "result"}
    assert set(approve.options_mapping.values()) <= approve.downstream_task_ids
    assert approve.defaults is None  # silence is no approval
    assert approve.response_timeout is None


def test_approval_is_not_retried_into_running(dag):
    assert dag.get_task("plan").upstream_task_ids == set()
    assert dag.get_task("plan").fail_on_reject


def test_the_plugin_scan_runs_one_file():
    """Airflow runs every plugin file by its bare name: `evaluate` would shadow a library."""
    code = (
        "import sys\n"
        "from airflow import plugins_manager\n"
        "names = {plugin['name'] for plugin in plugins_manager.get_plugin_info(['name'])}\n"
        "shadowed = {'evaluate', 'child', 'params'} & set(sys.modules)\n"
        "print('lora_factory' in names, sorted(shadowed))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | PATHS,
    )
    assert done.stdout.splitlines()[-1] == "True []"
