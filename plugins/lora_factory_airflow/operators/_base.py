"""The shape of every stage operator: spec → child process → claim check."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from lora_factory.contracts.base import StageSpec
from lora_factory.errors import FactoryError, SpecError
from lora_factory_airflow.child import PYTHON, StageProcess
from lora_factory_airflow.hooks.deployment import DeploymentHook

log = logging.getLogger(__name__)


class StageOperator(BaseOperator):
    """Runs one stage in a child process and hands its StageResult on.

    Args:
        spec: fields of the stage's Spec, or an XComArg of them.
        inputs: Spec field → StageResult of the task that makes the artifact. A task that
            was skipped leaves the field to ``spec``; of a list the last that ran counts.
    """

    stage: ClassVar[str]
    spec_type: ClassVar[type[StageSpec]]
    template_fields: Sequence[str] = ("spec", "inputs")

    def __init__(self, *, spec: Any, inputs: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec
        self.inputs = inputs or {}
        self.process: StageProcess | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the stage; its StageResult as JSON. Permanent errors end the task at once."""
        try:
            parsed = self.parse()
            spec = parsed.model_dump(mode="json")
            variables = DeploymentHook().secrets(self.stage)
            if run_id := context.get("run_id"):
                variables["LORA_FACTORY_RUN_ID"] = str(run_id)
            self.process = StageProcess(self.stage, spec, variables)
            self.process.python = self.interpreter(parsed)
            return self.process.run().model_dump(mode="json")
        except FactoryError as err:
            raise fail(err) from None

    def parse(self) -> StageSpec:
        """The rendered spec with its input artifacts.

        Raises:
            SpecError: names the first bad field.
        """
        found = {field: last_uri(results) for field, results in self.inputs.items()}
        values = {**self.spec, **{field: uri for field, uri in found.items() if uri is not None}}
        try:
            return self.spec_type.model_validate(values)
        except ValidationError as err:
            first = err.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            msg = f"{self.spec_type.__name__}: {where}: {first['msg']}"
            raise SpecError(msg) from err

    def interpreter(self, spec: StageSpec) -> str:  # noqa: ARG002 - others ask it
        """Variable that names the child's interpreter."""
        return PYTHON

    def on_kill(self) -> None:
        """Airflow stops the task: the child gets SIGTERM and time for a checkpoint."""
        if self.process is not None:
            self.process.stop()


def last_uri(results: Any) -> str | None:
    """Manifest URI of a StageResult, or of the last one of a list that isn't None."""
    if isinstance(results, list | tuple):
        results = next((result for result in reversed(results) if result is not None), None)
    return None if results is None else str(results["manifest_uri"])


def fail(err: FactoryError) -> Exception:
    """Log the error in one line; what to raise so that Airflow retries it only if transient."""
    log.error("%s: %s", type(err).__name__, err)
    return err if err.transient else AirflowFailException(f"{type(err).__name__}: {err}")
