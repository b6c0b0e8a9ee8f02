"""
# From a topic to a deployed LoRA

`plan → crawl → attempt 1 … 3 (sanitize → label → tune → train → evaluate → gate) → deploy → result`

* **plan** checks the whole configuration first; with *Approve the plan* it waits for a person.
* **crawl** is `crawl_plan → crawl_work → crawl`: topics are expanded; with *Crawl workers* several
  processes share one frontier, wherever they run; then what they brought is put together.
* **sanitize_shard** is mapped over the shards of a crawl of more than 5000 images; every attempt
  reads what it made. A smaller crawl is one shard, and sanitize makes it itself.
* **gate** reads the evaluation: pass → deploy; fail → the next attempt, refined by the
  evaluation's advice and with 2 more epochs; after the last attempt the run gives up and fails.
  Nothing failed, yet no calibrated scorer says pass → **approve** waits for a person.
* **result** returns verdict, scores, model and the URI of every artifact made.

*Start from* and *Stop after* make any part a run. Tasks hand on only URI and hash of an artifact.
Train and evaluate run in the pool `gpu` and, under Celery, on the queue `gpu`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TaskGroup

from lora_factory.contracts.run import MAX_ATTEMPTS, PHASES
from lora_factory_airflow.operators.approve import ApproveOperator
from lora_factory_airflow.operators.crawl import CrawlOperator, CrawlPlanOperator, CrawlWorkOperator
from lora_factory_airflow.operators.deploy import DeployOperator
from lora_factory_airflow.operators.evaluate import EvaluateOperator
from lora_factory_airflow.operators.gate import GateOperator
from lora_factory_airflow.operators.label import LabelOperator
from lora_factory_airflow.operators.plan import PlanOperator
from lora_factory_airflow.operators.result import ResultOperator
from lora_factory_airflow.operators.sanitize import (
    SanitizeOperator,
    ShardOperator,
    ShardPlanOperator,
)
from lora_factory_airflow.operators.train import TrainOperator
from lora_factory_airflow.operators.tune import TuneOperator
from lora_factory_airflow.params import run_params

GPU = {"pool": "gpu", "queue": "gpu"}
IN_ATTEMPT = ("sanitize", "label", "tune", "train", "evaluate", "gate")
WAYS = {"if_passed": "deploy", "if_given_up": "result", "if_undecided": "approve"}
ANSWERS = {"if_approved": "deploy", "if_rejected": "result"}
ATTEMPTS = range(1, MAX_ATTEMPTS + 1)

with DAG(
    dag_id="lora_factory",
    schedule=None,
    params=run_params(),
    tags=["lora-factory"],
    doc_md=__doc__,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=5),
        "trigger_rule": "none_failed",  # plan and gates skip by name what is not to run
    },
) as dag:
    plan = PlanOperator(
        task_id="plan",
        subject="Approve the plan of this run?",
        stages={
            **{f"attempt_{n}.{stage}": (stage, n) for n in ATTEMPTS for stage in IN_ATTEMPT},
            **{phase.replace(".", "_"): (phase, 0) for phase in PHASES},
            **{stage: (stage, 0) for stage in ("crawl", "approve", "deploy")},
            "sanitize_plan": ("sanitize.shard", 0),
        },
    )
    specs = plan.output
    crawl_plan = CrawlPlanOperator(task_id="crawl_plan", spec=specs["crawl_plan"])
    crawl_work = CrawlWorkOperator.partial(
        task_id="crawl_work", spec=specs["crawl"], planned_by="crawl_plan"
    ).expand(worker=crawl_plan.output)
    crawl = CrawlOperator(task_id="crawl", spec=specs["crawl"], planned_by="crawl_plan")
    [crawl_plan, crawl_work] >> crawl  # where there is one worker, crawl_work is skipped at once
    raw = {"raw": crawl.output}
    shards = ShardPlanOperator(task_id="sanitize_plan", spec=specs["sanitize"], inputs=raw)
    parts = ShardOperator.partial(
        task_id="sanitize_shard", spec=specs["sanitize"], inputs=raw
    ).expand(share=shards.output)
    loras, judged, gates = [], [], []
    for n in ATTEMPTS:
        advice = {"advice": judged[-1]} if judged else {}
        with TaskGroup(f"attempt_{n}"):
            sanitize = SanitizeOperator(
                task_id="sanitize",
                spec=specs["sanitize"],
                inputs={**raw, **advice},
                parts_by="sanitize_shard",
            )
            label = LabelOperator(
                task_id="label", spec=specs["label"], inputs={"clean": sanitize.output, **advice}
            )
            tune = TuneOperator(
                task_id="tune", spec=specs[f"tune_{n}"], inputs={"dataset": label.output, **advice}
            )
            made = {"dataset": label.output, "plan": tune.output}
            train = TrainOperator(task_id="train", spec=specs["train"], inputs=made, **GPU)
            judge = {"lora": train.output, "dataset": label.output}
            evaluate = EvaluateOperator(
                task_id="evaluate", spec=specs["evaluate"], inputs=judge, **GPU
            )
            gate = GateOperator(
                task_id="gate",
                spec=specs["gate"],
                evaluation=evaluate.output,
                attempt=n,
                if_failed=f"attempt_{n + 1}.sanitize",
                **WAYS,
            )
        [
            shards,
            parts,
            *gates[-1:],
        ] >> sanitize  # shards: it is skipped at once where one is enough
        loras.append(train.output)
        judged.append(evaluate.output)
        gates.append(gate)
    approve = ApproveOperator(task_id="approve", spec=specs["gate"], evaluations=judged, **ANSWERS)
    deploy = DeployOperator(
        task_id="deploy",
        spec=specs["deploy"],
        inputs={"lora": loras, "evaluation": judged},
        approval=approve.output,
    )
    result = ResultOperator(
        task_id="result", spec=specs["result"], plan=specs, approval=approve.output
    )
    gates >> approve >> deploy
    gates >> deploy
    [task for task in dag.tasks if task is not result] >> result  # a part run skips some between
