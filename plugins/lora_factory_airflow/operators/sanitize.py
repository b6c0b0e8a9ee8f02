"""raw → clean."""

from __future__ import annotations

from lora_factory.contracts.specs import SanitizeSpec
from lora_factory_airflow.operators._base import StageOperator


class SanitizeOperator(StageOperator):
    """Repairs text, drops duplicates and what does not fit. Inputs: raw, advice, previous."""

    stage = "sanitize"
    spec_type = SanitizeSpec
