"""evaluation → builds of its LoRA, each judged again, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from lora_factory.contracts.base import StageSpec
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.optimise import OptimiseReport
from lora_factory.contracts.specs import EvaluateSpec, OptimiseSpec
from lora_factory.errors import FactoryError, SpecError
from lora_factory.store.artifacts import open_store
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import StageOperator, fail


class BuildPlanOperator(BaseOperator):
    """Looks a passed evaluation up. Returns a dict of spec fields for each step.

    Args:
        evaluation: manifest URI of an evaluation whose verdict is a pass.
        steps: of :data:`lora_factory.contracts.optimise.Step`.
    """

    template_fields: Sequence[str] = ("evaluation", "steps")

    def __init__(self, *, evaluation: Any, steps: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.steps = steps

    def execute(self, context: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        """``[{"step": "onnx", "lora": …, "dataset": …, "evaluation": …, …}, …]``."""
        try:
            manifest = open_store(DeploymentHook().settings()).read_manifest(self.evaluation)
            found = {entry.name: entry.manifest_uri for entry in manifest.inputs}
            if manifest.kind != "evaluation" or "build" in found:
                msg = f"{self.evaluation} is no evaluation of a LoRA; give the URI of one"
                raise SpecError(msg)
            report = EvaluationReport.model_validate(manifest.stats)
            if report.verdict != "pass":
                msg = f"the LoRA of {self.evaluation} has verdict {report.verdict}, not a pass"
                raise SpecError(msg)
        except FactoryError as err:
            raise fail(err) from None
        # The same questions as its LoRA was asked; those with other strengths a build can't answer.
        spec = {**manifest.spec, **found, "evaluation": self.evaluation}
        spec |= {"threshold": report.threshold, "incumbent": None}
        return [{**spec, "step": step} for step in self.steps]


class OptimiseOperator(StageOperator):
    """Makes one build; belongs in a pool of accelerators. ``spec``: of a BuildPlanOperator."""

    stage = "optimise"
    spec_type: ClassVar[type[StageSpec]] = OptimiseSpec

    def parse(self) -> StageSpec:
        """See :meth:`StageOperator.parse`; what other stages want is left out."""
        # ``steps`` of an evaluation are those that a build is compared in, too.
        self.spec = {k: v for k, v in self.spec.items() if k in self.spec_type.model_fields}
        return super().parse()


class JudgeBuildOperator(OptimiseOperator):
    """Evaluates a build in its LoRA's place; one that gains nothing is skipped."""

    stage = "evaluate"
    spec_type: ClassVar[type[StageSpec]] = EvaluateSpec

    def execute(self, context: Any) -> dict[str, Any]:
        """See :meth:`StageOperator.execute`."""
        try:
            spec = cast("EvaluateSpec", self.parse())
            manifest = open_store(DeploymentHook().settings()).read_manifest(spec.build or "")
        except FactoryError as err:
            raise fail(err) from None
        report = OptimiseReport.model_validate(manifest.stats)
        if not report.worthwhile:
            msg = f"{report.step} makes the LoRA neither smaller nor faster, or draws otherwise"
            raise AirflowSkipException(msg)
        return super().execute(context)


class KeepOperator(BaseOperator):
    """Which builds passed. Returns a row for each: step, kept, sizes, seconds, score, URI.

    Args:
        optimised_by, judged_by: task ids of the mapped tasks.
    """

    def __init__(self, *, optimised_by: str, judged_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.optimised_by = optimised_by
        self.judged_by = judged_by

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """The fastest first."""
        builds, judged = (
            [result["manifest_uri"] for result in context["ti"].xcom_pull(task_ids=[id_]) if result]
            for id_ in (self.optimised_by, self.judged_by)
        )
        try:
            store = open_store(DeploymentHook().settings())
            verdicts = {}
            for uri in judged:
                manifest = store.read_manifest(uri)
                build = next(e.manifest_uri for e in manifest.inputs if e.name == "build")
                report = EvaluationReport.model_validate(manifest.stats)
                verdicts[build] = (uri, report)
            rows = []
            for uri in builds:
                made = OptimiseReport.model_validate(store.read_manifest(uri).stats)
                evaluation, verdict = verdicts.get(uri.partition("#")[0], (None, None))
                rows.append({
                    "step": made.step,
                    "kept": verdict is not None and verdict.verdict == "pass",
                    "speedup": round(made.seconds_before / made.seconds_after, 2),
                    "size": round(made.bytes_after / made.bytes_before, 2),
                    "difference": made.difference,
                    "overall": verdict and verdict.overall,
                    "build": uri,
                    "evaluation": evaluation,
                })
        except FactoryError as err:
            raise fail(err) from None
        rows.sort(key=lambda row: -row["speedup"])
        for row in rows:
            self.log.info("%s", row)
        return rows
