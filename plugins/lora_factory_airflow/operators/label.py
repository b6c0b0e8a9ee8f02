"""clean → dataset."""

from __future__ import annotations

from lora_factory.contracts.specs import LabelSpec
from lora_factory_airflow.operators._base import StageOperator


class LabelOperator(StageOperator):
    """Labels, captions and splits into an imagefolder. Inputs: clean, advice."""

    stage = "label"
    spec_type = LabelSpec
