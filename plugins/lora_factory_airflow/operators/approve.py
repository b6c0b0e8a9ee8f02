"""A verdict that only a person can turn into a release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator

from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.errors import FactoryError
from lora_factory.store.artifacts import open_store
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import fail, last_uri

APPROVE, REJECT = "Approve", "Reject"
SUBJECT = "Deploy this LoRA? No calibrated scorer says that it is good enough"


class ApproveOperator(HITLBranchOperator):
    """Shows a person the last evaluation and waits for an answer: deploy it, or end the run.

    Runs only where a gate asks for it (verdict ``needs_person``). XCom: ``{"approved", "by",
    "at"}``, the user's name and id and the time as Airflow knows them.

    Args:
        spec: ``evaluation`` to show where no task made one.
        evaluations: StageResults of the attempts' evaluations; the last that ran counts.
        if_approved, if_rejected: task ids to go on with.
    """

    template_fields: Sequence[str] = (*HITLBranchOperator.template_fields, "spec", "evaluations")

    def __init__(
        self, *, spec: Any, evaluations: Any, if_approved: str, if_rejected: str, **kwargs: Any
    ) -> None:
        super().__init__(
            subject=SUBJECT,
            options=[APPROVE, REJECT],
            options_mapping={APPROVE: if_approved, REJECT: if_rejected},
            **kwargs,
        )
        self.spec = spec
        self.evaluations = evaluations

    def execute(self, context: Any) -> Any:
        """Write what there is to decide on, and wait."""
        try:
            uri = last_uri(self.evaluations) or str(self.spec["evaluation"])
            store = open_store(DeploymentHook().settings())
            report = EvaluationReport.model_validate(store.read_manifest(uri).stats)
        except FactoryError as err:
            raise fail(err) from None
        self.body = describe(report, uri)
        self.log.info("%s", self.body)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after the answer."""
        user = event.get("responded_by_user") or {}
        approval = {
            "approved": event.get("chosen_options") == [APPROVE],
            "by": f"{user.get('name') or 'someone'} (id {user.get('id') or 'unknown'})",
            "at": str(event.get("responded_at")),
        }
        self.log.info("%s", approval)
        # Skipping ends the task, so that nothing after it would be stored.
        context["ti"].xcom_push(key="return_value", value=approval)
        super().execute_complete(context, event)
        return approval


def describe(report: EvaluationReport, uri: str) -> str:
    """The evaluation in Markdown, as far as a decision needs it."""
    lines = [
        f"**Verdict: {report.verdict}** — no gate is closed, but nothing here may say pass.",
        f"- LoRA with the trigger {report.trigger} on base {report.base}",
        f"- overall {report.overall:.3f} (95% interval from {report.overall_low:.3f}), "
        f"pass mark {report.threshold:.3f}",
        *(
            f"- {metric.name}: {'abstains' if metric.score is None else f'{metric.score:.3f}'}"
            for metric in report.metrics
        ),
        f"- report with pictures (report.html) beside {uri}",
        "",
        f"{APPROVE} deploys it under your name; {REJECT} ends the run.",
    ]
    return "\n".join(lines)
