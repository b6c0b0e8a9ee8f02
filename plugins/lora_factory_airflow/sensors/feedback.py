"""Deferrable sensor on the users' ratings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from lora_factory.errors import ServiceUnavailable
from lora_factory_airflow.triggers.feedback import FeedbackTrigger


class FeedbackSensor(BaseSensorOperator):
    """The day's retrain decisions; hands on ``[{"trigger_run_id", "conf"}, …]``.

    Holds no worker while the catalog works or does not answer. When nothing is due the task
    and what follows are skipped.

    Args:
        patience: how long to wait for a catalog that does not answer.
        poll_interval: between two tries.
    """

    def __init__(self, *, patience: timedelta, poll_interval: timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patience = patience
        self.poll_interval = poll_interval

    def execute(self, context: Any) -> None:
        """Defer to the trigger."""
        run = context["dag_run"]
        # The day that has just ended when the scheduler starts the run, today by hand.
        end = context.get("data_interval_end") or run.run_after
        day = (end - timedelta(microseconds=1)).date()
        until = datetime.now(UTC) + self.patience
        trigger = FeedbackTrigger(
            day.isoformat(), until.isoformat(), self.poll_interval.total_seconds()
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """Run ids and confs to trigger."""
        if "error" in event:
            error = ServiceUnavailable if event["transient"] else AirflowFailException
            raise error(event["error"])
        for request in event["due"]:
            self.log.info("%s: %s", request["run_id"], request["reason"])
        if not event["due"]:
            msg = "no deployed LoRA is due for a retrain"
            raise AirflowSkipException(msg)
        return [{"trigger_run_id": r["run_id"], "conf": r["conf"]} for r in event["due"]]
