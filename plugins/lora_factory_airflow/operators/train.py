"""dataset + plan → lora."""

from __future__ import annotations

from lora_factory.contracts.specs import TrainSpec
from lora_factory_airflow.operators._base import StageOperator


class TrainOperator(StageOperator):
    """Trains a LoRA; belongs in a pool of accelerators. Inputs: dataset, plan, parent."""

    stage = "train"
    spec_type = TrainSpec
