"""Operators without a scheduler: fields, rendered values, error branches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from lora_factory.contracts.manifest import StageResult
from lora_factory.contracts.run import PHASES, STAGES
from lora_factory.errors import DataError, Interrupted, ServiceUnavailable, SpecError
from lora_factory_airflow.operators._base import StageOperator, fail, last_uri
from lora_factory_airflow.operators.approve import ApproveOperator
from lora_factory_airflow.operators.crawl import CrawlOperator, CrawlPlanOperator, CrawlWorkOperator
from lora_factory_airflow.operators.deploy import DeployOperator
from lora_factory_airflow.operators.evaluate import EvaluateOperator
from lora_factory_airflow.operators.gate import GateOperator
from lora_factory_airflow.operators.label import LabelOperator
from lora_factory_airflow.operators.result import ResultOperator
from lora_factory_airflow.operators.sanitize import (
    SanitizeOperator,
    ShardOperator,
    ShardPlanOperator,
)
from lora_factory_airflow.operators.train import TrainOperator
from lora_factory_airflow.operators.tune import TuneOperator

OPERATORS = (
    CrawlOperator,
    SanitizeOperator,
    LabelOperator,
    TuneOperator,
    TrainOperator,
    EvaluateOperator,
    DeployOperator,
)


def result(uri: str) -> dict[str, Any]:
    return StageResult(manifest_uri=uri, sha256="0", counts={}).model_dump(mode="json")  # type: ignore[arg-type]


def test_one_operator_a_stage():
    assert tuple(operator.stage for operator in OPERATORS) == STAGES
    for operator in OPERATORS:
        assert operator.spec_type.__name__ == f"{operator.stage.title()}Spec"
        more = {"approval"} if operator is DeployOperator else set()
        assert set(operator.template_fields) == {"spec", "inputs"} | more
    parts = (CrawlPlanOperator, CrawlWorkOperator, ShardOperator)
    assert tuple(operator.stage for operator in parts) == PHASES
    for operator in parts:
        assert operator.spec_type.__name__ == f"{operator.stage.partition('.')[2].title()}Spec"
        more = {CrawlWorkOperator: {"worker"}, ShardOperator: {"share"}}.get(operator, set())
        assert set(operator.template_fields) == {"spec", "inputs"} | more
    assert set(GateOperator.template_fields) == {"spec", "evaluation"}
    assert set(ResultOperator.template_fields) == {"spec", "plan", "approval"}
    assert set(ApproveOperator.template_fields) == {"subject", "body", "spec", "evaluations"}


@pytest.mark.parametrize(
    ("approval", "who"),
    [
        (None, None),
        ({"approved": False, "by": "rita", "at": "noon"}, None),
        ({"approved": True, "by": "rita", "at": "noon"}, "rita at noon"),
    ],
)
def test_only_an_approval_is_handed_on(approval, who):
    spec = {"lora": "l", "evaluation": "e", "name": "n"}
    operator = DeployOperator(task_id="d", spec=spec, approval=approval)
    assert operator.parse().approved_by == who


class Xcoms:
    """A task instance as far as XComs go."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def xcom_push(self, key: str, value: Any) -> None:
        self.values[key] = value

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        assert task_ids in {"crawl_plan", "sanitize_shard"}
        return self.values.get(key)


class Finished:
    """A child that made ``artifact`` at once."""

    spec: dict[str, Any]

    def __init__(self, stage: str, spec: Any, secrets: Any) -> None:
        Finished.spec = spec

    def run(self) -> StageResult:
        return StageResult.model_validate(result("artifact"))


CRAWL = {"topics": ["a"], "seeds": ["http://x/"], "as_of": "2026-11-24"}


@pytest.mark.parametrize(("workers", "mapped"), [(1, []), (2, [1, 2]), (16, [*range(1, 17)])])
def test_a_crawl_is_mapped_over_its_workers(monkeypatch, workers, mapped):
    monkeypatch.setattr("lora_factory_airflow.operators._base.StageProcess", Finished)
    xcoms = Xcoms()
    operator = CrawlPlanOperator(task_id="crawl_plan", spec={**CRAWL, "workers": workers})
    assert operator.execute({"ti": xcoms}) == mapped
    assert xcoms.values["plan"]["manifest_uri"] == "artifact"


@pytest.mark.parametrize("plan", [None, result("the plan")])
def test_a_crawl_goes_by_its_plan_where_there_is_one(monkeypatch, plan):
    monkeypatch.setattr("lora_factory_airflow.operators._base.StageProcess", Finished)
    CrawlOperator(task_id="crawl", spec=CRAWL, planned_by="crawl_plan").execute({
        "ti": Xcoms(plan=plan)
    })
    assert Finished.spec["plan"] == (plan and "the plan")


def test_a_worker_has_a_number_and_a_plan(monkeypatch):
    monkeypatch.setattr("lora_factory_airflow.operators._base.StageProcess", Finished)
    operator = CrawlWorkOperator(task_id="w", spec=CRAWL, planned_by="crawl_plan", worker=3)
    operator.execute({"ti": Xcoms(plan=result("the plan"))})
    assert (Finished.spec["worker"], Finished.spec["plan"]) == (3, "the plan")
    operator = CrawlWorkOperator(task_id="w", spec=CRAWL, planned_by="crawl_plan", worker=3)
    with pytest.raises(AirflowFailException, match="SpecError: WorkSpec: plan: Field required"):
        operator.execute({"ti": Xcoms()})


@pytest.mark.parametrize(
    ("raw", "previous", "shards"), [(2, None, 0), (5000, None, 0), (4999, 2, 2), (10_001, None, 3)]
)
def test_shards_are_counted_from_the_manifests(monkeypatch, raw, previous, shards):
    class Store:
        def read_manifest(self, uri: str) -> Any:
            return SimpleNamespace(counts=SimpleNamespace(kept={"r": raw, "p": previous}[uri]))

    monkeypatch.setattr(f"{ShardPlanOperator.__module__}.open_store", lambda _settings: Store())
    monkeypatch.setattr(f"{ShardPlanOperator.__module__}.DeploymentHook", MagicMock)
    spec = {"previous": "p" if previous else None}
    operator = ShardPlanOperator(task_id="s", spec=spec, inputs={"raw": result("r")})
    assert operator.execute({}) == [{"shard": at, "shards": shards} for at in range(shards)]


def test_a_shard_has_its_number(monkeypatch):
    monkeypatch.setattr("lora_factory_airflow.operators._base.StageProcess", Finished)
    share = {"shard": 1, "shards": 3}
    ShardOperator(task_id="s", spec={"raw": "r"}, share=share).execute({})
    assert (Finished.spec["shard"], Finished.spec["shards"], Finished.spec["raw"]) == (1, 3, "r")


@pytest.mark.parametrize("parts", [None, [result("a"), result("b")]])
def test_sanitize_reads_the_parts_there_are(monkeypatch, parts):
    monkeypatch.setattr("lora_factory_airflow.operators._base.StageProcess", Finished)
    operator = SanitizeOperator(task_id="s", spec={"raw": "r"}, parts_by="sanitize_shard")
    operator.execute({"ti": Xcoms(return_value=parts)})
    assert Finished.spec["parts"] == (["a", "b"] if parts else [])


def test_constructors_only_assign():
    """Airflow renders after construction: a nonsense spec must pass until execute."""
    operator = TrainOperator(task_id="t", spec="{{ later }}", inputs={"dataset": "{{ later }}"})
    assert operator.spec == "{{ later }}"


def test_inputs_win_over_the_spec_and_skipped_ones_leave_it():
    operator = TrainOperator(
        task_id="t",
        spec={"dataset": "given", "plan": "given", "parent": None},
        inputs={"dataset": None, "plan": result("made")},
    )
    spec = operator.parse()
    assert (spec.dataset, spec.plan, spec.parent) == ("given", "made", None)


def test_bad_specs_are_one_line():
    operator = TrainOperator(task_id="t", spec={"dataset": "d", "nonsense": 1})
    with pytest.raises(SpecError) as err:
        operator.parse()
    assert str(err.value).startswith("TrainSpec: plan: Field required")
    assert "\n" not in str(err.value)
    with pytest.raises(AirflowFailException, match="SpecError: TrainSpec"):
        operator.execute({})


@pytest.mark.parametrize(
    ("results", "uri"),
    [
        (None, None),
        ([], None),
        ([None, None], None),
        (result("a"), "a"),
        ([result("a"), result("b"), None], "b"),
        ((None, result("b")), "b"),
    ],
)
def test_last_uri(results, uri):
    assert last_uri(results) == uri


def test_only_permanent_errors_end_the_task():
    assert isinstance(fail(DataError("x")), AirflowFailException)
    assert str(fail(DataError("x"))) == "DataError: x"
    for transient in (ServiceUnavailable("x"), Interrupted("x")):
        assert fail(transient) is transient


def test_kill_before_start_is_harmless():
    StageOperator.on_kill(CrawlOperator(task_id="c", spec={}, planned_by="p"))


def test_sensor_defers_without_secrets(monkeypatch):
    from datetime import UTC, datetime, timedelta
    from types import SimpleNamespace

    from lora_factory_airflow.sensors.feedback import FeedbackSensor
    from lora_factory_airflow.triggers.feedback import FeedbackTrigger

    monkeypatch.setenv("LORA_FACTORY_CATALOG", "postgresql://u:s3cret@h/d")
    sensor = FeedbackSensor(
        task_id="w", patience=timedelta(hours=1), poll_interval=timedelta(minutes=1)
    )
    run = SimpleNamespace(run_after=datetime(2026, 11, 24, 12, tzinfo=UTC))
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    for context, day in (
        ({"dag_run": run, "data_interval_end": midnight}, "2026-11-23"),
        ({"dag_run": run}, "2026-11-24"),
    ):
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(context)
        path, arguments = deferred.value.trigger.serialize()
        assert path == "lora_factory_airflow.triggers.feedback.FeedbackTrigger"
        assert arguments["day"] == day
        assert "s3cret" not in str(arguments)
        assert FeedbackTrigger(**arguments).serialize() == (path, arguments)


def test_sensor_reads_the_event():
    from datetime import timedelta

    from airflow.sdk.exceptions import AirflowSkipException

    from lora_factory_airflow.sensors.feedback import FeedbackSensor

    sensor = FeedbackSensor(task_id="w", patience=timedelta(0), poll_interval=timedelta(0))
    due = {"run_id": "r", "conf": {"a": 1}, "reason": "x", "name": "n"}
    assert sensor.execute_complete({}, {"due": [due]}) == [
        {"trigger_run_id": "r", "conf": {"a": 1}}
    ]
    with pytest.raises(AirflowSkipException):
        sensor.execute_complete({}, {"due": []})
    with pytest.raises(AirflowFailException):
        sensor.execute_complete({}, {"error": "e", "transient": False})
    with pytest.raises(ServiceUnavailable):
        sensor.execute_complete({}, {"error": "e", "transient": True})


def test_trigger_waits_for_a_catalog_that_does_not_answer(monkeypatch):
    """Refused connection: transient, so it tries again until its time is over."""
    import asyncio
    import time
    from datetime import UTC, datetime, timedelta

    from lora_factory_airflow.triggers.feedback import FeedbackTrigger

    monkeypatch.setenv("LORA_FACTORY_CATALOG", "postgresql://u:s3cret@127.0.0.1:1/d")
    until = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    trigger = FeedbackTrigger("2026-11-24", until, 0.2)

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError

    started = time.monotonic()
    answer = asyncio.run(first())
    assert time.monotonic() - started >= 0.9
    assert answer["transient"]
    assert "s3cret" not in answer["error"]


@pytest.mark.parametrize(
    ("target", "python"),
    [
        ("local", "LORA_FACTORY_PYTHON"),
        ("aws-lambda", "LORA_FACTORY_PYTHON"),
        ("cloud-run", "LORA_FACTORY_CLOUD_PYTHON"),
        ("azure", "LORA_FACTORY_CLOUD_PYTHON"),
    ],
)
def test_a_clouds_sdk_has_an_interpreter_of_its_own(target, python):
    spec = {"lora": "l", "evaluation": "e", "name": "icons", "target": target}
    operator = DeployOperator(task_id="deploy", spec=spec)
    assert operator.interpreter(operator.parse()) == python
