"""dataset → plan."""

from __future__ import annotations

from lora_factory.contracts.specs import TuneSpec
from lora_factory_airflow.operators._base import StageOperator


class TuneOperator(StageOperator):
    """Measures dataset and machine, and chooses the training plan. Inputs: dataset, advice."""

    stage = "tune"
    spec_type = TuneSpec
