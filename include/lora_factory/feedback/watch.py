"""The daily look at what users say: which deployed LoRAs are due for an incremental run.

Plain blocking functions; an event loop calls them through ``asyncio.to_thread``.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, time, timedelta

from pydantic import Field, JsonValue, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import Deployment, Model, RetrainDecision
from lora_factory.contracts.run import RunConf
from lora_factory.feedback.decide import Decision, decide
from lora_factory.store.catalog import Catalog

log = logging.getLogger(__name__)


class RetrainRequest(Contract):
    """A run to trigger: ``lora_factory`` with ``conf`` under ``run_id``."""

    name: str
    version: str = Field(description="The deployed version that it goes on from")
    run_id: str = Field(description="The same on every call of a day: a second trigger collides")
    conf: dict[str, JsonValue]
    reason: str


def due_retrains(catalog: Catalog, day: date) -> list[RetrainRequest]:
    """Decide on every deployed LoRA for ``day`` and say which to retrain, by name.

    Ratings given until the end of ``day`` (UTC) count. Each decision is recorded once for a
    name, version and day; calling again returns what the first call decided, so that a
    trigger which was lost can be repeated and none is doubled.

    Raises:
        ServiceUnavailable: the catalog did not answer.
        ConfigurationError: its schema must be migrated.
    """
    until = datetime.combine(day + timedelta(days=1), time.min, tzinfo=UTC)
    requests: dict[str, RetrainRequest] = {}
    for deployment in catalog.deployments():
        model = catalog.model(deployment.name, deployment.version)
        if model is None or deployment.name in requests:
            continue
        request = _look_at(catalog, deployment, model, until, day)
        if request is not None:
            requests[deployment.name] = request
    return list(requests.values())


def run_id(name: str, day: date, version: str) -> str:
    """``retrain__<name>__<day>__<version>``."""
    return f"retrain__{name}__{day.isoformat()}__{version}"


def _look_at(
    catalog: Catalog, deployment: Deployment, model: Model, until: datetime, day: date
) -> RetrainRequest | None:
    decision = decide(catalog.ratings(deployment, until))
    conf = retrain_conf(model, day)
    if decision.retrain and conf is None:
        reason = f"{decision.reason}, but the run conf it was made with is not usable"
        decision = decision.model_copy(update={"retrain": False, "reason": reason})
    stored = catalog.record_decision(_record(deployment, decision, day))
    log.info("%s %s: %s (%s)", stored.name, stored.version, stored.verdict, stored.reason)
    if stored.run_id is None or conf is None:
        return None
    return RetrainRequest(
        name=stored.name,
        version=stored.version,
        run_id=stored.run_id,
        conf=conf,
        reason=stored.reason,
    )


def _record(deployment: Deployment, decision: Decision, day: date) -> RetrainDecision:
    name, version = deployment.name, deployment.version
    return RetrainDecision(
        name=name,
        version=version,
        day=day,
        verdict="retrain" if decision.retrain else "keep",
        reason=decision.reason,
        mean=decision.mean,
        n=decision.n,
        new_items=decision.new_items,
        run_id=run_id(name, day, version) if decision.retrain else None,
    )


def retrain_conf(model: Model, day: date) -> dict[str, JsonValue] | None:
    """Conf of an incremental run: the deployed model's own, crawled anew, its LoRA as parent.

    The new model must beat the deployed one, which its evaluation names. Of a model that was
    taken down nothing goes on: the run starts afresh, and has only itself to answer for.

    None where the stored conf is not a valid :class:`RunConf` (a release made by hand).
    """
    usable = model.taken_down is None
    conf = model.conf | {
        "name": model.name,
        "trigger": model.trigger,
        "parent": model.lora if usable else None,
        "incumbent": model.evaluation if usable else None,
        "as_of": day.isoformat(),
        "start_from": None,
        "stop_after": None,
    }
    try:
        return RunConf.model_validate(conf).model_dump(mode="json")
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        log.warning(
            "%s %s can't be retrained: its run conf's %s: %s",
            model.name,
            model.version,
            where,
            first["msg"],
        )
        return None
