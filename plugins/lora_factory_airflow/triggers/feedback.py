"""Asks the catalog, from the triggerer, which deployed LoRAs are due for an incremental run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lora_factory.errors import FactoryError
from lora_factory.feedback.watch import due_retrains
from lora_factory.store.catalog import Catalog
from lora_factory_airflow.hooks.deployment import DeploymentHook


class FeedbackTrigger(BaseTrigger):
    """Fires with the day's decisions; waits while the catalog does not answer.

    The catalog is asked in a thread, so that the event loop of all triggers never waits for
    a database. Its DSN is looked up here and never stored with the trigger.

    Args:
        day: ISO date whose ratings (and earlier ones) count.
        until: ISO time at which waiting for the catalog ends.
        poll_seconds: between two tries.
    """

    def __init__(self, day: str, until: str, poll_seconds: float) -> None:
        super().__init__()
        self.day = day
        self.until = until
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the metadata database keeps them."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        arguments = {"day": self.day, "until": self.until, "poll_seconds": self.poll_seconds}
        return path, arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: ``{"due": [RetrainRequest, …]}`` or ``{"error": …, "transient": …}``."""
        yield TriggerEvent(await self._wait())

    async def _wait(self) -> dict[str, Any]:
        day, until = date.fromisoformat(self.day), datetime.fromisoformat(self.until)
        while True:
            try:
                catalog = Catalog(await DeploymentHook().catalog())
                due = await asyncio.to_thread(due_retrains, catalog, day)
            except FactoryError as err:
                left = (until - datetime.now(UTC)).total_seconds()
                if not err.transient or left <= 0:
                    return {"error": f"{type(err).__name__}: {err}", "transient": err.transient}
                self.log.warning("%s; %.0f s left", err, left)
                await asyncio.sleep(min(self.poll_seconds, left))
            else:
                return {"due": [request.model_dump(mode="json") for request in due]}
