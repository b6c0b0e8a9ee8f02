"""lora + dataset → evaluation."""

from __future__ import annotations

from lora_factory.contracts.specs import EvaluateSpec
from lora_factory_airflow.operators._base import StageOperator


class EvaluateOperator(StageOperator):
    """Compares LoRA and base; belongs in a pool of accelerators. Inputs: lora, dataset."""

    stage = "evaluate"
    spec_type = EvaluateSpec
