"""raw → clean: the shards of a large crawl, and the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lora_factory.contracts.base import StageSpec
from lora_factory.contracts.specs import SanitizeSpec, ShardSpec
from lora_factory.errors import FactoryError
from lora_factory.store.artifacts import open_store
from lora_factory_airflow.hooks.deployment import DeploymentHook
from lora_factory_airflow.operators._base import StageOperator, fail


class ShardPlanOperator(StageOperator):
    """Counts the pictures. Returns each shard's number, which ``sanitize_shard`` is mapped over.

    None where all fit into one: then ``sanitize`` makes it itself, and the mapped task is
    skipped. Looks at two manifests only, so it needs no child.
    """

    stage = "sanitize.shard"
    spec_type = SanitizeSpec

    def execute(self, context: Any) -> Any:  # noqa: ARG002
        """``[{"shard": 0, "shards": n}, …]``, or nothing."""
        try:
            spec = cast("SanitizeSpec", self.parse())
            store = open_store(DeploymentHook().settings())
            inputs = [uri for uri in (spec.raw, spec.previous) if uri is not None]
            pictures = sum(store.read_manifest(uri).counts.kept for uri in inputs)
        except FactoryError as err:
            raise fail(err) from None
        shards = -(-pictures // spec.shard_images)
        self.log.info("%d pictures, %d to a shard: %d", pictures, spec.shard_images, shards)
        return [{"shard": at, "shards": shards} for at in range(shards)] if shards > 1 else []


class ShardOperator(StageOperator):
    """Judges each picture of a shard by itself. Every attempt of the run reads the same parts.

    Args:
        share: ``shard`` and ``shards``, fields of the spec.
    """

    stage = "sanitize.shard"
    spec_type = ShardSpec
    template_fields: Sequence[str] = (*StageOperator.template_fields, "share")

    def __init__(self, *, share: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share

    def parse(self) -> StageSpec:
        """See :meth:`StageOperator.parse`; the shard's number goes into the spec."""
        self.spec = {**self.spec, **self.share}
        return super().parse()


class SanitizeOperator(StageOperator):
    """Repairs text, drops duplicates and what does not fit. Inputs: raw, advice, previous.

    Args:
        parts_by: task id of the mapped ShardOperator; where it was skipped there are no parts.
    """

    stage = "sanitize"
    spec_type = SanitizeSpec

    def __init__(self, *, parts_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts_by = parts_by

    def execute(self, context: Any) -> dict[str, Any]:
        """See :meth:`StageOperator.execute`."""
        parts = context["ti"].xcom_pull(task_ids=self.parts_by) or []
        self.spec = {**self.spec, "parts": [part["manifest_uri"] for part in parts]}
        return super().execute(context)
