"""conf → checked run plan; on request waits for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from lora_factory.errors import FactoryError
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import fail
from lora_factory_airflow.run_plan import RunPlan, describe, make_plan, parse_conf


class PlanOperator(ApprovalOperator):
    """Validates the run's conf, lays the run out, and skips the tasks that it leaves out.

    XComs: ``return_value`` (the RunPlan) and, under its own key, each of the plan's specs:
    ``plan.output["label"]``. With ``approve_plan`` in the conf the task waits for a person;
    rejecting fails the run.

    Args:
        stages: task id → (stage, attempt), of every task that a plan may leave out.
    """

    def __init__(self, *, stages: Mapping[str, tuple[str, int]], **kwargs: Any) -> None:
        super().__init__(fail_on_reject=True, **kwargs)
        self.stages = stages

    def execute(self, context: Any) -> Any:
        """Plan; then publish, or wait for approval first."""
        plan = self._plan(context)
        if not plan.conf["approve_plan"]:
            return self._publish(plan, context)
        self.body = describe(plan)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after a person's answer."""
        try:
            super().execute_complete(context, event)
        except HITLRejectException:
            user = (event.get("responded_by_user") or {}).get("name", "someone")
            msg = f"plan rejected by {user}; nothing was run"
            raise AirflowFailException(msg) from None
        return self._publish(self._plan(context), context)

    def _plan(self, context: Any) -> RunPlan:
        run = context["dag_run"]
        day = (run.logical_date or run.run_after).date()  # the same at every retry
        try:
            conf = parse_conf(run.conf or {}, context["params"])
            return make_plan(conf, DeploymentHook().settings(), day)
        except FactoryError as err:
            raise fail(err) from None

    def _publish(self, plan: RunPlan, context: Any) -> dict[str, Any]:
        self.log.info("%s", describe(plan))
        value = plan.model_dump(mode="json", exclude={"specs"})
        for name, spec in plan.specs.items():
            context["ti"].xcom_push(key=name, value=spec)
        context["ti"].xcom_push(key="return_value", value=value)  # skipping ends the task here
        tasks = [context["dag"].get_task(id_) for id_ in plan.skipped(self.stages)]
        self.skip(context["ti"], tasks)
        return value
