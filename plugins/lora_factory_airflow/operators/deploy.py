"""lora + evaluation → release."""

from __future__ import annotations

from lora_factory.contracts.specs import DeploySpec
from lora_factory_airflow.operators._base import StageOperator


class DeployOperator(StageOperator):
    """Publishes a LoRA that passed to a target. Inputs: lora, evaluation."""

    stage = "deploy"
    spec_type = DeploySpec
