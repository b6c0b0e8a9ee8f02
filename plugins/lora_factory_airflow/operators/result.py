"""The run's one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from lora_factory.contracts.evaluation import DeployReport, EvaluationReport
from lora_factory.contracts.run import STAGES
from lora_factory.errors import FactoryError
from lora_factory.store.artifacts import ArtifactStore, open_store
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import StageOperator, fail


class ResultOperator(BaseOperator):
    """Verdict, attempts, model and URIs of a run; giving up fails it.

    Returns a dict: ``verdict`` (pass, fail, needs_person, or None when nothing was evaluated),
    ``attempts``, ``overall``, ``threshold``, ``name``, ``evaluation`` (URI of the last one),
    ``approval`` (approved, by, at; None when no person was asked), ``model`` (endpoint,
    version, trigger, base, lora; None when nothing was deployed) and ``stages`` (task id →
    StageResult of every stage that ran).

    Args:
        spec: ``name`` of the adapter; ``evaluation`` to report where no task made one.
        plan: the RunPlan.
        approval: what ApproveOperator returned.
    """

    template_fields: Sequence[str] = ("spec", "plan", "approval")

    def __init__(self, *, spec: Any, plan: Any, approval: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.plan = plan
        self.approval = approval

    def execute(self, context: Any) -> dict[str, Any]:
        """Collect; fail the run when no attempt passed."""
        stages = self._stages(context)
        try:
            store = open_store(DeploymentHook().settings())
            result = {"name": self.spec["name"], **self._judged(stages, store), "stages": stages}
            closed = result.pop("closed", ())
            result["model"] = _model(stages.get("deploy"), store)
        except FactoryError as err:
            raise fail(err) from None
        if "deploy" in self.plan["stages"] and result["model"] is None:
            context["ti"].xcom_push(key="return_value", value=result)
            raise AirflowFailException(_why(result, closed))
        self.log.info("%s", result)
        return result

    def _stages(self, context: Any) -> dict[str, dict[str, Any]]:
        """StageResults by task id, in the order of the graph."""
        before = context["task"].get_flat_relative_ids(upstream=True)
        tasks = [task for task in context["dag"].topological_sort() if task.task_id in before]
        stages = [task for task in tasks if isinstance(task, StageOperator)]
        ids = [task.task_id for task in stages if task.stage in STAGES]
        found = {id_: context["ti"].xcom_pull(task_ids=id_) for id_ in ids}
        return {id_: value for id_, value in found.items() if value is not None}

    def _judged(self, stages: dict[str, dict[str, Any]], store: ArtifactStore) -> dict[str, Any]:
        """Verdict and scores of the last evaluation."""
        uris = [r["manifest_uri"] for id_, r in stages.items() if id_.endswith(".evaluate")]
        uri = uris[-1] if uris else self.spec["evaluation"]
        answer: dict[str, Any] = {
            "attempts": len(uris),
            "verdict": None,
            "evaluation": uri,
            "approval": self.approval,
        }
        if uri is None:
            return answer
        report = EvaluationReport.model_validate(store.read_manifest(uri).stats)
        answer["closed"] = [f"{g.name} ({g.detail})" for g in report.gates if not g.passed]
        return answer | report.model_dump(include={"verdict", "overall", "threshold"})


def _why(result: dict[str, Any], closed: Sequence[str]) -> str:
    """Why nothing was deployed, in one line."""
    scores = f"overall {result['overall']:.3f}, needed {result['threshold']:.3f}"
    if closed:
        scores += f"; gates closed: {', '.join(closed)}"
    scores += f"; the last report is {result['evaluation']}"
    if result["verdict"] == "needs_person":
        approval = result["approval"] or {"by": "nobody", "at": "any time"}
        return f"release rejected by {approval['by']} at {approval['at']}: {scores}"
    return f"gave up after {result['attempts']} attempt(s): {scores}"


def _model(release: dict[str, Any] | None, store: ArtifactStore) -> dict[str, Any] | None:
    """What was deployed, and where."""
    if release is None:
        return None
    manifest = store.read_manifest(release["manifest_uri"])
    report = DeployReport.model_validate(manifest.stats)
    lora = next(entry.manifest_uri for entry in manifest.inputs if entry.name == "lora")
    fields = {"name", "version", "endpoint", "trigger", "base", "target"}
    return {**report.model_dump(include=fields), "lora": lora}
