"""lora + evaluation → release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_factory.contracts.base import StageSpec
from lora_factory.contracts.specs import DeploySpec
from lora_factory_airflow.child import CLOUD_PYTHON
from lora_factory_airflow.operators._base import StageOperator

SDK_TARGETS = frozenset({"cloud-run", "azure"})


class DeployOperator(StageOperator):
    """Publishes a LoRA that passed to a target. Inputs: lora, evaluation.

    Args:
        approval: what ApproveOperator returned; None where no person was asked.
    """

    stage = "deploy"
    spec_type = DeploySpec
    template_fields: Sequence[str] = (*StageOperator.template_fields, "approval")

    def __init__(self, *, approval: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approval = approval

    def parse(self) -> StageSpec:
        """See :meth:`StageOperator.parse`; a person's approval goes into the spec."""
        if self.approval and self.approval["approved"]:
            who = f"{self.approval['by']} at {self.approval['at']}"
            self.spec = {**self.spec, "approved_by": who}
        return super().parse()

    def interpreter(self, spec: StageSpec) -> str:
        """One of its own where a cloud's SDK can't share Airflow's environment."""
        own = isinstance(spec, DeploySpec) and spec.target in SDK_TARGETS
        return CLOUD_PYTHON if own else super().interpreter(spec)
