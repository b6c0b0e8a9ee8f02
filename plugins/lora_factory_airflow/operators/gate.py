"""evaluation → which way the run goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseBranchOperator

from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.settings import Settings
from lora_factory.errors import FactoryError
from lora_factory.store.artifacts import open_store
from lora_factory.store.catalog import Catalog
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import fail, last_uri


class GateOperator(BaseBranchOperator):
    """Pass → deploy; fail → the next attempt; last failure → give up; else ask a person.

    A verdict ``needs_person`` starts no further attempt: trying again calibrates no scorer. Nor
    does a failure in a run that a person asked to stop.

    Skips all that can no longer be reached, not just the tasks next to it, so that trigger
    rule ``none_failed`` serves everywhere and no scheduler round is spent on each task.

    Args:
        spec: ``attempts`` of this run; ``evaluation`` to judge where no task made one.
        evaluation: StageResult of this attempt's evaluation.
        attempt: number of this attempt, from 1.
        if_passed, if_failed, if_given_up, if_undecided: task ids to go on with.
    """

    template_fields: Sequence[str] = ("spec", "evaluation")

    def __init__(
        self,
        *,
        spec: Any,
        evaluation: Any,
        attempt: int,
        if_passed: str,
        if_failed: str,
        if_given_up: str,
        if_undecided: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.evaluation = evaluation
        self.attempt = attempt
        self.if_passed = if_passed
        self.if_failed = if_failed
        self.if_given_up = if_given_up
        self.if_undecided = if_undecided

    def choose_branch(self, context: Any) -> str:
        """The task id to go on with."""
        try:
            uri = last_uri(self.evaluation) or str(self.spec["evaluation"])
            settings = DeploymentHook().settings()
            store = open_store(settings)
            report = EvaluationReport.model_validate(store.read_manifest(uri).stats)
            asked = stop_asked(settings, str(context.get("run_id") or ""))
        except FactoryError as err:
            raise fail(err) from None
        broken = [gate.name for gate in report.gates if not gate.passed]
        self.log.info(
            "attempt %d: %s, overall %.3f of %.3f%s",
            *(self.attempt, report.verdict, report.overall, report.threshold),
            f", hard gates failed: {', '.join(broken)}" if broken else "",
        )
        if report.verdict == "pass":
            return self.if_passed
        if report.verdict == "needs_person":
            return self.if_undecided
        if asked:
            self.log.info("a person asked this run to stop: no further attempt")
        again = self.attempt < self.spec["attempts"] and not asked
        return self.if_failed if again else self.if_given_up

    def execute(self, context: Any) -> str:
        """Follow one branch and skip whatever is reachable by the others only."""
        branch = self.choose_branch(context)
        kept = {branch, *context["dag"].get_task(branch).get_flat_relative_ids(upstream=False)}
        others = context["task"].get_flat_relatives(upstream=False)
        self.skip(context["ti"], [task for task in others if task.task_id not in kept])
        return branch


def stop_asked(settings: Settings, run_id: str) -> bool:
    """Whether a person asked a training of this run to stop; no catalog: nobody could.

    Raises:
        ServiceUnavailable: the catalog did not answer.
    """
    dsn = settings.catalog.get_secret_value()
    return bool(dsn and run_id) and Catalog(dsn).stop_asked(run_id)
