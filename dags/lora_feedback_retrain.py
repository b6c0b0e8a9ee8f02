"""
# Retrain what users rate down

Once a day, over all ratings until the end of the day before: **watch** asks the catalog, from
the triggerer, which deployed LoRAs are due (mean rating below 0.7, or more than 1000 new
items); nobody due, nothing more happens. **retrain** triggers `lora_factory` in incremental
mode, once for each, under a run id made of name, day and version: a run that exists already is
left alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from lora_factory_airflow.sensors.feedback import FeedbackSensor

with DAG(
    dag_id="lora_feedback_retrain",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow reads it in its own time zone
    catchup=False,
    max_active_runs=1,
    tags=["lora-factory"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
):
    watch = FeedbackSensor(
        task_id="watch", patience=timedelta(hours=1), poll_interval=timedelta(minutes=1)
    )
    TriggerDagRunOperator.partial(
        task_id="retrain",
        trigger_dag_id="lora_factory",
        logical_date=None,
        skip_when_already_exists=True,
    ).expand_kwargs(watch.output)
