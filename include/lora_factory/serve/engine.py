"""The engine: one base model, one worker thread, a bounded queue. Knows nothing of HTTP.

Requests that follow each other with the same adapter and settings are drawn as one batch.
Order is kept, so nobody waits for requests that came later. The guards see every prompt
before it is drawn and every picture before it leaves; without them nothing is drawn.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_factory.diffusion.base import GenerationRequest
from lora_factory.errors import ArtifactError, FactoryError, Interrupted, ServiceUnavailable

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.serve.guards import Guards

log = logging.getLogger(__name__)
CHECKED = "checked"  # name of an adapter that is loaded only to see whether it fits


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA file and the sha256 that it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Settings:
    """What a batch must share."""

    adapter: AdapterFile | None
    steps: int
    guidance: float
    strength: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """A picture, or what a guard refused; waiting time and the batch's drawing time, seconds."""

    image: Image | None
    """None: refused."""
    waited: float
    seconds: float
    batch: int
    refused: Literal["", "prompt", "picture"] = ""
    rule: str = ""


@dataclass
class _Item:
    """One place in the queue: a picture to draw, or a file to check (``request`` is None)."""

    settings: Settings
    request: GenerationRequest | None
    future: Future[Any]
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Draws pictures, one batch at a time.

    Args:
        load: makes the base; called in the worker thread.
        load_guards: makes the guards of prompts and pictures; called there too.
        queue_size: requests that may wait; one more is refused with ``queue.Full``.
        batch_size: most requests drawn together.
        keep_adapters: adapters kept loaded; the least recently used one goes first.
    """

    def __init__(
        self,
        load: Callable[[], DiffusionBase],
        load_guards: Callable[[], Guards],
        *,
        queue_size: int = 16,
        batch_size: int = 4,
        keep_adapters: int = 4,
    ) -> None:
        self._load, self._load_guards = load, load_guards
        self._size, self._batch, self._keep = queue_size, batch_size, keep_adapters
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._failure: str = ""
        self._ready = threading.Event()
        self.swaps = 0
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker, which loads the base."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Cancel the batch at work and all that wait; returns when the worker has ended."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(timeout)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._items)

    def draw(self, request: GenerationRequest, settings: Settings) -> Future[Drawn]:
        """Queue one picture; cancelling the future before its turn takes it out.

        The future fails with ModelError or ArtifactError where the adapter can't be used.

        Raises:
            queue.Full: too many requests wait.
            ServiceUnavailable: the engine is loading, stopped, or could not load its base.
        """
        return self._put(_Item(settings, request, Future()))

    def check(self, adapter: AdapterFile) -> Future[None]:
        """Queue a test whether a LoRA file fits this base; the future fails where it doesn't.

        Raises: as :meth:`draw`.
        """
        return self._put(_Item(Settings(adapter, 1, 1.0), None, Future()))

    def check_ready(self) -> None:
        """Raise ServiceUnavailable, with the reason, unless the engine can draw."""
        if self._failure or self._stop.is_set() or not self._ready.is_set():
            msg = f"not drawing: {self._failure or 'the base model is being loaded'}"
            raise ServiceUnavailable(msg)

    def _put(self, item: _Item) -> Future[Any]:
        with self._changed:
            self.check_ready()
            if len(self._items) >= self._size:
                raise queue.Full
            self._items.append(item)
            self._changed.notify()
        return item.future

    # -- worker thread

    def _work(self) -> None:
        what = "guard"
        try:
            guards = self._load_guards()
            what = "base model"
            base = self._load()
        except Exception as err:  # the thread's end: readiness tells why
            self._failure = f"the {what} can't be loaded: {err}"
            log.exception("%s", self._failure, exc_info=not isinstance(err, FactoryError))
            return
        self._ready.set()
        log.info("engine is ready: base %s on %s", base.entry.name, base.device)
        while (batch := self._next()) is not None:
            self._serve(base, guards, batch)
        self._failure = "the engine was stopped"
        for item in self._items:
            _fail(item, Interrupted("the service is stopping; ask again"))

    def _next(self) -> list[_Item] | None:
        """Wait for the next batch: the head of the queue and its like right behind it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._stop.is_set())
            if self._stop.is_set():
                return None
            batch = [self._items.popleft()]
            while (
                batch[0].request is not None
                and self._items
                and self._items[0].request is not None
                and self._items[0].settings == batch[0].settings
                and len(batch) < self._batch
            ):
                batch.append(self._items.popleft())
        return batch

    def _serve(self, base: DiffusionBase, guards: Guards, items: list[_Item]) -> None:
        """The one boundary: whatever goes wrong with a batch is its requests' answer."""
        batch = [item for item in items if item.future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            if batch[0].request is None:
                self._try(base, batch[0].settings.adapter)
                batch[0].future.set_result(None)
            else:
                self._draw(base, guards, batch)
        except Exception as err:
            if not isinstance(err, FactoryError):
                log.exception("a batch of %d failed", len(batch))
            for item in batch:
                _fail(item, err)

    def _draw(self, base: DiffusionBase, guards: Guards, batch: list[_Item]) -> None:
        started = time.monotonic()
        asked = [(item, item.request) for item in batch if item.request is not None]
        verdicts = guards.prompts.check([request.prompt for _, request in asked])
        for (item, _), verdict in zip(asked, verdicts, strict=True):
            if not verdict.allowed:
                waited = started - item.since
                item.future.set_result(Drawn(None, waited, 0.0, 0, "prompt", verdict.rule))
        asked = [one for one, verdict in zip(asked, verdicts, strict=True) if verdict.allowed]
        if not asked:
            return
        settings = batch[0].settings
        self._activate(base, settings)
        images = base.generate(
            [request for _, request in asked],
            steps=settings.steps,
            guidance=settings.guidance,
            batch_size=self._batch,
            on_step=lambda _done, _total: not self._stop.is_set(),
        )
        findings = guards.pictures.check(images)
        seconds = time.monotonic() - started
        for (item, _), image, finding in zip(asked, images, findings, strict=True):
            waited = started - item.since
            drawn = Drawn(image, waited, seconds, len(asked))
            if not finding.allowed:
                drawn = Drawn(None, waited, seconds, len(asked), "picture", finding.rule)
            item.future.set_result(drawn)

    def _activate(self, base: DiffusionBase, settings: Settings) -> None:
        """Make the adapter the active one, loading it and dropping the oldest if need be."""
        adapter = settings.adapter
        if adapter is None:
            base.use_adapter(None)
            return
        name = adapter.sha256
        if name not in self._loaded:
            _verify(adapter)
            base.load_adapter(name, adapter.path)
            self.swaps += 1
            self._loaded[name] = None
            while len(self._loaded) > self._keep:
                base.drop_adapter(self._loaded.popitem(last=False)[0])
        self._loaded.move_to_end(name)
        base.use_adapter(name, settings.strength)

    def _try(self, base: DiffusionBase, adapter: AdapterFile | None) -> None:
        if adapter is None:
            return
        _verify(adapter)
        try:
            base.load_adapter(CHECKED, adapter.path)
        finally:
            base.drop_adapter(CHECKED)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(adapter: AdapterFile) -> None:
    try:
        found = file_sha256(adapter.path)
    except OSError as err:
        msg = f"LoRA file {adapter.sha256[:12]} is not on this server; publish it again"
        raise ArtifactError(msg) from err
    if found != adapter.sha256:
        msg = f"LoRA file {adapter.sha256[:12]} is damaged on disk; publish it again"
        raise ArtifactError(msg)


def _fail(item: _Item, err: BaseException) -> None:
    if not item.future.done():
        item.future.set_exception(err)
