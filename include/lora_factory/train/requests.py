"""A person's request to end a training, asked of the catalog while it trains.

In a thread of its own, so that a catalog that is slow or away costs no step: training goes on,
and the request is heeded once it answers again.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from lora_factory.errors import FactoryError

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
EVERY = 3.0
"""Seconds between two looks."""


class StopRequests:
    """``asked`` once a person wants the training of this run to end; ``step`` is told on.

    Does nothing where there is no catalog or the stage is part of no run.

    Args:
        settings: the deployment's.
        training: 24 hex digits that a retry of this very training has, too.
        steps: of the training.
    """

    def __init__(self, settings: Settings, training: str, steps: int) -> None:
        self.step = 0
        self._settings, self._training, self._steps = settings, training, steps
        self._on = bool(settings.run_id and settings.catalog.get_secret_value())
        self._asked, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop requests", daemon=True)

    @property
    def asked(self) -> bool:
        """Whether a person asked."""
        return self._asked.is_set()

    def __enter__(self) -> StopRequests:
        if self._on:
            self._thread.start()
            log.info(
                "to end this training in order: python -m lora_factory stop %r",
                self._settings.run_id,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if not self._on:
            return
        if kind is None:
            self._say_end()
        self._thread.join(timeout=1.0)  # one that waits for the catalog dies with the process

    def _watch(self) -> None:
        from lora_factory.store.catalog import Catalog

        told = False
        catalog = Catalog(self._settings.catalog.get_secret_value())
        while not self._over.is_set():
            try:
                run, training = self._settings.run_id, self._training
                if catalog.training_seen(run, training, self.step, self._steps):
                    self._asked.set()
                told = False
            except FactoryError as err:  # whatever it is, it is no reason to stop training
                if not told:
                    log.warning("requests to stop can't be seen now: %s", err)
                told = True
            self._over.wait(EVERY)

    def _say_end(self) -> None:
        from lora_factory.store.catalog import Catalog

        try:
            catalog = Catalog(self._settings.catalog.get_secret_value())
            catalog.training_ended(self._settings.run_id, self._training, self.step)
        except FactoryError as err:
            log.warning("the catalog could not be told that training ended: %s", err)
