"""
# A deployed LoRA, smaller or faster

For each step **optimise** makes a build of the LoRA that an evaluation passed: `truncate` (lower
ranks), `fuse` (in the denoiser's weights), `compile`, `onnx` (a graph), `int8` (the graph in 8
bits), `tensorrt`. **judge** evaluates the build with the questions that the LoRA was asked; a build
that is neither smaller nor faster is skipped. **keep** returns a row for each build: what it gains,
and whether the gate still passes it. A step that this machine can't do fails alone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

from airflow.sdk import DAG, Param, task_group

from lora_factory.contracts.optimise import Step
from lora_factory_airflow.operators.optimise import (
    BuildPlanOperator,
    JudgeBuildOperator,
    KeepOperator,
    OptimiseOperator,
)

GPU = {"pool": "gpu", "queue": "gpu"}
STEPS = list(get_args(Step))

with DAG(
    dag_id="lora_optimise",
    schedule=None,
    params={
        "evaluation": Param(
            type="string",
            title="Evaluation",
            description="Manifest URI of an evaluation that passed; a run's result names it.",
        ),
        "steps": Param(
            ["truncate", "fuse", "onnx", "int8"],
            type="array",
            items={"type": "string", "enum": STEPS},
            minItems=1,
            title="Steps",
            description=f"One a line: {', '.join(STEPS)}.",
        ),
    },
    render_template_as_native_obj=True,
    tags=["lora-factory"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
):
    plan = BuildPlanOperator(
        task_id="plan", evaluation="{{ params.evaluation }}", steps="{{ params.steps }}"
    )

    @task_group(group_id="build")
    def build(spec: object) -> None:
        """One step: make, then judge."""
        made = OptimiseOperator(task_id="optimise", spec=spec, **GPU)
        JudgeBuildOperator(task_id="judge", spec=spec, inputs={"build": made.output}, **GPU)

    builds = build.expand(spec=plan.output)
    keep = KeepOperator(
        task_id="keep",
        optimised_by="build.optimise",
        judged_by="build.judge",
        trigger_rule="all_done",
    )
    builds >> keep
