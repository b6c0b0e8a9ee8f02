"""topics → raw: the plan of a crawl, its workers, and what they brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_factory.contracts.base import StageSpec
from lora_factory.contracts.specs import CrawlSpec, PlanSpec, WorkSpec
from lora_factory_airflow.operators._base import StageOperator

PLAN = "plan"


class CrawlPlanOperator(StageOperator):
    """Expands the topics. Returns the workers' numbers, which ``crawl_work`` is mapped over.

    None of them where one process is enough: then ``crawl`` does all of it, and the mapped
    task is skipped. Airflow maps over a task's return value only, so the StageResult is under
    the key :data:`PLAN`.
    """

    stage = "crawl.plan"
    spec_type = PlanSpec

    def execute(self, context: Any) -> Any:
        """Plan; ``[1, …, workers]``, or nothing."""
        context["ti"].xcom_push(key=PLAN, value=super().execute(context))
        workers = int(self.spec["workers"])
        return list(range(1, workers + 1)) if workers > 1 else []


class PlannedOperator(StageOperator):
    """Goes by the plan of another task; without one where that was skipped.

    Args:
        planned_by: task id of a CrawlPlanOperator. Pulled here: Airflow can't hand on an XCom
            under a key of its own that a skipped task never pushed.
    """

    def __init__(self, *, planned_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned_by = planned_by

    def execute(self, context: Any) -> dict[str, Any]:
        """See :meth:`StageOperator.execute`."""
        plan = context["ti"].xcom_pull(task_ids=self.planned_by, key=PLAN)
        self.inputs = {**self.inputs, "plan": plan}
        return super().execute(context)


class CrawlWorkOperator(PlannedOperator):
    """Works on a crawl that others work on too, until nothing is left to fetch.

    They share a frontier, not this task: whoever starts late, or again, goes on with what is
    left, and returns at once where nothing is.

    Args:
        worker: number of this worker, from 1.
    """

    stage = "crawl.work"
    spec_type = WorkSpec
    template_fields: Sequence[str] = (*StageOperator.template_fields, "worker")

    def __init__(self, *, worker: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.worker = worker

    def parse(self) -> StageSpec:
        """See :meth:`StageOperator.parse`; the worker's number goes into the spec."""
        self.spec = {**self.spec, "worker": self.worker}
        return super().parse()


class CrawlOperator(PlannedOperator):
    """Crawls pages or a folder for images of the topics. Always a child: Twisted starts once.

    Where several workers crawled, it puts together what they brought.
    """

    stage = "crawl"
    spec_type = CrawlSpec
