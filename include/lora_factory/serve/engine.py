"""The engine: one base model, one worker thread, a bounded queue. Knows nothing of HTTP.

Requests with the same steps and guidance are drawn as one batch, whichever adapters they ask
for: each picture of a batch has its own (:mod:`lora_factory.diffusion.bank`). The request that
has waited longest is always in the next batch, so nobody starves. The guards see every prompt
before it is drawn and every picture before it leaves; without them nothing is drawn.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_factory.diffusion.bank import Worn
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.errors import ArtifactError, FactoryError, Interrupted, ServiceUnavailable

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.serve.guards import Guards

log = logging.getLogger(__name__)
CHECKED = "checked"  # name of an adapter that is loaded only to see whether it fits
MEBIBYTE = 1024**2


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA file and the sha256 that it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Settings:
    """How to draw a picture. Pictures of one batch share steps and guidance."""

    adapter: AdapterFile | None
    steps: int
    guidance: float
    strength: float = 1.0


@dataclass(frozen=True)
class Limits:
    """What an engine may hold."""

    queue: int = 32
    """Requests that may wait; one more is refused with ``queue.Full``."""
    batch: int = 8
    """Most requests drawn together."""
    adapter_bytes: int = 512 * MEBIBYTE
    """Memory for adapters; beyond it the least recently used ones go."""


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
class Ticket:
    """One place in the queue: a picture to draw, or a file to check (``request`` is None)."""

    settings: Settings
    request: GenerationRequest | None
    deadline: float = float("inf")
    """On the clock of ``time.monotonic``; who waited longer is not drawn."""
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    step: int = 0
    """Denoising steps done."""
    abandoned: bool = False

    def abandon(self) -> None:
        """Nobody waits any more: take it out, or stop drawing if the whole batch is abandoned."""
        self.abandoned = True
        self.future.cancel()


class Engine:
    """Draws pictures, one batch at a time.

    Args:
        load: makes the base; called in the worker thread.
        load_guards: makes the guards of prompts and pictures; called there too.
        limits: of queue, batch and memory.
    """

    def __init__(
        self,
        load: Callable[[], DiffusionBase],
        load_guards: Callable[[], Guards],
        limits: Limits | None = None,
    ) -> None:
        self._load, self._load_guards = load, load_guards
        self.limits = limits or Limits()
        self._items: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._draining = False
        self._stop = threading.Event()
        self._loaded: OrderedDict[str, int] = OrderedDict()  # sha256 → bytes
        self._failure: str = ""
        self._ready = threading.Event()
        self.swaps = 0
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker, which loads the base."""
        self._thread.start()

    def stop(self, drain: float = 0.0, timeout: float = 10.0) -> None:
        """Take nothing more, draw what waits for ``drain`` seconds at most, cancel the rest.

        Returns when the worker has ended, or after ``timeout`` more seconds.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        self._thread.join(drain)
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(timeout)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._items)

    @property
    def adapter_bytes(self) -> int:
        """Memory that adapters take."""
        return sum(self._loaded.values())

    def draw(
        self, request: GenerationRequest, settings: Settings, deadline: float = float("inf")
    ) -> Ticket:
        """Queue one picture; ``deadline``: see :class:`Ticket`. Its future gets a :class:`Drawn`.

        The future fails with ModelError or ArtifactError where the adapter can't be used, and
        with ServiceUnavailable past the deadline.

        Raises:
            queue.Full: too many requests wait.
            ServiceUnavailable: the engine is loading, stopped, or could not load its base.
        """
        return self._put(Ticket(settings, request, deadline))

    def check(self, adapter: AdapterFile) -> Ticket:
        """Queue a test whether a LoRA file fits this base; the future fails where it doesn't.

        Raises: as :meth:`draw`.
        """
        return self._put(Ticket(Settings(adapter, 1, 1.0), None))

    def check_ready(self) -> None:
        """Raise ServiceUnavailable, with the reason, unless the engine can draw."""
        if self._failure or self._draining or not self._ready.is_set():
            why = "the engine was stopped" if self._draining else "the base model is being loaded"
            msg = f"not drawing: {self._failure or why}"
            raise ServiceUnavailable(msg)

    def wait_ready(self, timeout: float) -> None:
        """Wait until it can draw, ``timeout`` seconds at most.

        Raises: as :meth:`check_ready`.
        """
        deadline = time.monotonic() + timeout
        while not self._failure and time.monotonic() < deadline and not self._ready.wait(0.1):
            pass
        self.check_ready()

    def _put(self, item: Ticket) -> Ticket:
        with self._changed:
            self.check_ready()
            if len(self._items) >= self.limits.queue:
                raise queue.Full
            self._items.append(item)
            self._changed.notify()
        return item

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
            self._make_room(base)
        self._failure = "the engine was stopped"
        for item in self._items:
            _fail(item, Interrupted("the service is stopping; ask again"))

    def _next(self) -> list[Ticket] | None:
        """Wait for the next batch: the head of the queue, and those that it can share it with."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._draining)
            if self._stop.is_set() or not self._items:
                return None
            head = self._items.popleft()
            batch, others = [head], deque[Ticket]()
            while head.request is not None and self._items:
                item = self._items.popleft()
                fits = len(batch) < self.limits.batch and _together(head, item)
                (batch if fits else others).append(item)
            self._items.extendleft(reversed(others))
        return batch

    def _serve(self, base: DiffusionBase, guards: Guards, items: list[Ticket]) -> None:
        """The one boundary: whatever goes wrong with a batch is its requests' answer."""
        batch = [item for item in items if item.future.set_running_or_notify_cancel()]
        try:
            if batch and batch[0].request is None:
                self._try(base, batch[0].settings.adapter)
                batch[0].future.set_result(None)
            else:
                self._draw(base, guards, batch)
        except Exception as err:
            if not isinstance(err, FactoryError):
                log.exception("a batch of %d failed", len(batch))
            for item in batch:
                _fail(item, err)

    def _draw(self, base: DiffusionBase, guards: Guards, batch: list[Ticket]) -> None:
        started = time.monotonic()
        asked = list(self._drawable(base, guards, batch, started))
        if not asked:
            return

        def on_step(done: int, _total: int) -> bool:
            for item, _, _ in asked:
                item.step = done
            return not self._stop.is_set() and not all(item.abandoned for item, _, _ in asked)

        settings = batch[0].settings
        images = base.generate(
            [request for _, request, _ in asked],
            steps=settings.steps,
            guidance=settings.guidance,
            batch_size=len(asked),
            on_step=on_step,
            adapters=[worn for _, _, worn in asked],
        )
        findings = guards.pictures.check(images)
        seconds = time.monotonic() - started
        for (item, _, _), image, finding in zip(asked, images, findings, strict=True):
            waited = started - item.since
            drawn = Drawn(image, waited, seconds, len(asked))
            if not finding.allowed:
                drawn = Drawn(None, waited, seconds, len(asked), "picture", finding.rule)
            item.future.set_result(drawn)

    def _drawable(
        self, base: DiffusionBase, guards: Guards, batch: list[Ticket], now: float
    ) -> Iterator[tuple[Ticket, GenerationRequest, Worn | None]]:
        """What is left to draw, with its adapter loaded; the others get their answer here."""
        asked = []
        for item in batch:
            if now > item.deadline:
                late = f"waited {now - item.since:.0f} s for its turn, too long; try again later"
                _fail(item, ServiceUnavailable(late))
            elif item.request is not None:
                asked.append((item, item.request))
        prompts = [request.prompt for _, request in asked]
        verdicts = guards.prompts.check(prompts) if prompts else []
        for (item, request), verdict in zip(asked, verdicts, strict=True):
            if not verdict.allowed:
                drawn = Drawn(None, now - item.since, 0.0, 0, "prompt", verdict.rule)
                item.future.set_result(drawn)
                continue
            try:
                worn = self._worn(base, item.settings)
            except FactoryError as err:  # its neighbours can be drawn
                _fail(item, err)
                continue
            yield item, request, worn

    def _worn(self, base: DiffusionBase, settings: Settings) -> Worn | None:
        """A picture's adapter, loaded if it isn't."""
        if settings.adapter is None:
            return None
        name = settings.adapter.sha256
        if name not in self._loaded:
            _verify(settings.adapter)
            base.load_adapter(name, settings.adapter.path)
            self._loaded[name] = base.adapter_size(name)
            self.swaps += 1
        self._loaded.move_to_end(name)
        return Worn(name, settings.strength)

    def _make_room(self, base: DiffusionBase) -> None:
        """Drop the adapters that were not used for longest, once a batch is done."""
        while self.adapter_bytes > self.limits.adapter_bytes:
            base.drop_adapter(self._loaded.popitem(last=False)[0])

    def _try(self, base: DiffusionBase, adapter: AdapterFile | None) -> None:
        if adapter is None:
            return
        _verify(adapter)
        try:
            base.load_adapter(CHECKED, adapter.path)
        finally:
            base.drop_adapter(CHECKED)


def _together(head: Ticket, other: Ticket) -> bool:
    """Whether two pictures can be drawn in one batch."""
    one, two = head.settings, other.settings
    return other.request is not None and (one.steps, one.guidance) == (two.steps, two.guidance)


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


def _fail(item: Ticket, err: BaseException) -> None:
    if not item.future.done():
        item.future.set_exception(err)
