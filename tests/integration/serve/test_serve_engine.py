"""The engine's queue, batches, adapters and ends, over the embedded base."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL.Image import Image
from safetensors.torch import save_file

from lora_factory.contracts.settings import Settings as DeploymentSettings
from lora_factory.diffusion.bank import Worn
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest, OnStep
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, Interrupted, ModelError, ServiceUnavailable
from lora_factory.guard.content import Verdict
from lora_factory.guard.images import Finding
from lora_factory.guard.meaning import PromptFilter
from lora_factory.guard.output import OutputGuard
from lora_factory.models.profiles import load_profile
from lora_factory.serve.engine import (
    AdapterFile,
    Drawn,
    Engine,
    Limits,
    Settings,
    Ticket,
    file_sha256,
)
from lora_factory.serve.guards import Guards

pytestmark = pytest.mark.integration
PLAIN = Settings(None, 1, 4.0)
SMALL = 200_000  # bytes that one adapter of these tests takes, at most


class Recorder:
    """The embedded base, held at a gate when a test asks so; writes down what it drew."""

    def __init__(self, base: DiffusionBase) -> None:
        self._base = base
        self.entry, self.device = base.entry, base.device
        self.batches: list[tuple[list[Worn | None], list[int]]] = []
        self.loaded: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def load_adapter(self, name: str, file: Path) -> None:
        self._base.load_adapter(name, file)
        self.loaded.append(name)

    def drop_adapter(self, name: str) -> None:
        self._base.drop_adapter(name)
        self.loaded = [kept for kept in self.loaded if kept != name]

    def adapter_size(self, name: str) -> int:
        return self._base.adapter_size(name)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        steps: int,
        guidance: float,
        batch_size: int,
        on_step: OnStep,
        adapters: Sequence[Worn | None],
    ) -> list[Image]:
        self.begun.set()

        def at_gate(done: int, total: int) -> bool:
            while not self.gate.wait(0.01):
                if not on_step(done, total):
                    return False
            return on_step(done, total)

        if any(request.prompt == "crash" for request in requests):
            msg = "CUDA error"
            raise RuntimeError(msg)
        images = self._base.generate(
            requests,
            steps=steps,
            guidance=guidance,
            batch_size=batch_size,
            on_step=at_gate,
            adapters=adapters,
        )
        self.batches.append((list(adapters), [request.seed for request in requests]))
        return images


class RefusesSeed99:
    """A check in the guard that objects to what was drawn with seed 99, and breaks at 98."""

    def __init__(self, base: Recorder) -> None:
        self._base = base

    def check(self, images: Sequence[Image]) -> list[Finding]:
        seeds = self._base.batches[-1][1]
        assert len(images) == len(seeds)
        if 98 in seeds:
            msg = "the guard broke"
            raise RuntimeError(msg)
        return [
            Finding(False, "unsafe_image", 0.9, "") if seed == 99 else Finding(True, "", 0.1, "")
            for seed in seeds
        ]


class RefusesBadWords:
    """In the prompt filter's place."""

    def check(self, texts: Sequence[str]) -> list[Verdict]:
        return [Verdict("bad" not in text, "meaning" * ("bad" in text)) for text in texts]


@pytest.fixture(scope="module")
def embedded() -> DiffusionBase:
    return load_base(load_profile("embedded", DeploymentSettings()).base("emoji", "art"))


@pytest.fixture
def base(embedded: DiffusionBase) -> Iterator[Recorder]:
    recorder = Recorder(embedded)
    yield recorder
    for name in list(recorder.loaded):
        recorder.drop_adapter(name)


@pytest.fixture
def engine(base: Recorder) -> Iterator[Engine]:
    made = Engine(
        lambda: cast("DiffusionBase", base),
        lambda: Guards(cast("PromptFilter", RefusesBadWords()), OutputGuard([RefusesSeed99(base)])),
        Limits(queue=6, batch=3, adapter_bytes=2 * SMALL),
    )
    made.start()
    assert made._ready.wait(5)
    yield made
    made.stop()


@pytest.fixture
def lora(make_lora: Callable[[int, float], Path]) -> Callable[[str], AdapterFile]:
    def make(name: str) -> AdapterFile:
        path = make_lora(ord(name), 0.02)
        return AdapterFile(path, file_sha256(path))

    return make


def ask(engine: Engine, seed: int, settings: Settings = PLAIN, prompt: str = "x") -> Future[Drawn]:
    return engine.draw(GenerationRequest(prompt, seed), settings).future


def hold(base: Recorder, engine: Engine) -> Future[Drawn]:
    """Keep the worker busy with one picture until the gate opens."""
    base.gate.clear()
    base.begun.clear()
    busy = ask(engine, 0)
    assert base.begun.wait(5)
    return busy


def test_a_batch_holds_whatever_has_its_steps_and_the_head_is_always_in_it(
    base: Recorder, engine: Engine, lora: Callable[[str], AdapterFile]
) -> None:
    a, b = lora("a"), lora("b")
    one, two, other = Settings(a, 1, 4.0), Settings(b, 1, 4.0, 0.5), Settings(a, 2, 4.0)
    busy = hold(base, engine)
    waiting = [ask(engine, n, s) for n, s in enumerate([one, other, two, PLAIN, other, one], 1)]
    base.gate.set()
    for future in (busy, *waiting):
        future.result(5)
    assert [seeds for _, seeds in base.batches] == [[0], [1, 3, 4], [2, 5], [6]]
    assert base.batches[1][0] == [Worn(a.sha256), Worn(b.sha256, 0.5), None]
    assert waiting[0].result().batch == 3
    assert engine.swaps == 2


def test_a_full_queue_refuses_and_a_cancelled_request_is_not_drawn(
    base: Recorder, engine: Engine
) -> None:
    busy = hold(base, engine)
    waiting = [ask(engine, n) for n in range(1, 7)]
    assert engine.depth == 6
    with pytest.raises(queue.Full):
        ask(engine, 7)
    assert waiting[0].cancel()
    base.gate.set()
    for future in (busy, *waiting[1:]):
        future.result(5)
    assert [seeds for _, seeds in base.batches] == [[0], [2, 3], [4, 5, 6]]
    ask(engine, 8).result(5)


def test_the_least_recently_used_adapter_goes(
    base: Recorder, engine: Engine, lora: Callable[[str], AdapterFile]
) -> None:
    files = {name: lora(name) for name in "abc"}
    for name in "abac":
        ask(engine, 1, Settings(files[name], 1, 4.0)).result(5)
    assert (
        base.adapter_size(files["a"].sha256) <= SMALL < 1.5 * base.adapter_size(files["a"].sha256)
    )
    ask(engine, 1).result(5)  # room is made after a batch
    assert base.loaded == [files["a"].sha256, files["c"].sha256]
    assert engine.swaps == 3


def test_damaged_missing_and_foreign_files_fail_alone(
    base: Recorder, engine: Engine, lora: Callable[[str], AdapterFile], tmp_path: Path
) -> None:
    damaged = AdapterFile(tmp_path / "rot.safetensors", lora("a").sha256)
    damaged.path.write_bytes(lora("a").path.read_bytes()[:-1] + b"x")
    missing = AdapterFile(tmp_path / "none.safetensors", "0" * 64)
    for file, reason in ((damaged, "damaged on disk"), (missing, "not on this server")):
        with pytest.raises(ArtifactError, match=reason):
            ask(engine, 1, Settings(file, 1, 4.0)).result(5)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"unet.other.lora_A.weight": torch.ones(4, 4)}, foreign)
    with pytest.raises(ModelError, match="fits no layer"):
        engine.check(AdapterFile(foreign, file_sha256(foreign))).future.result(5)
    engine.check(lora("b")).future.result(5)
    assert base.loaded == [], "checking leaves nothing loaded"
    assert ask(engine, 2).result(5).image.size == (64, 64)


def test_a_batch_draws_what_each_would_draw_alone(
    engine: Engine, lora: Callable[[str], AdapterFile], base: Recorder
) -> None:
    asked = [(1, Settings(lora("a"), 2, 4.0)), (2, Settings(lora("b"), 2, 4.0, 0.5))]
    asked.append((3, Settings(None, 2, 4.0)))
    alone = [ask(engine, *one).result(5).image for one in asked]
    busy = hold(base, engine)
    together = [ask(engine, *one) for one in asked]
    base.gate.set()
    busy.result(5)
    assert together[0].result(5).batch == 3
    for one, many in zip(alone, together, strict=True):
        distance = np.abs(np.asarray(one, float) - np.asarray(many.result(5).image, float))
        assert distance.max() <= 2, "rounding only"
    assert np.any(np.asarray(alone[0]) != np.asarray(ask(engine, 1).result(5).image))


def test_who_has_left_is_not_drawn_for(base: Recorder, engine: Engine) -> None:
    base.gate.clear()
    base.begun.clear()
    running = [engine.draw(GenerationRequest("x", 1), PLAIN)]
    assert base.begun.wait(5)
    waiting = [engine.draw(GenerationRequest("x", seed), PLAIN) for seed in (2, 3)]
    waiting[0].abandon()
    running[0].abandon()  # the batch at work has nobody left: it ends between two steps
    with pytest.raises(Interrupted):
        running[0].future.result(5)
    base.gate.set()
    assert waiting[1].future.result(5).batch == 1
    assert [seeds for _, seeds in base.batches] == [[3]]
    assert waiting[1].step == 1


def test_a_batch_goes_on_while_anyone_in_it_waits(base: Recorder, engine: Engine) -> None:
    busy = hold(base, engine)
    tickets = [engine.draw(GenerationRequest("x", seed), PLAIN) for seed in (1, 2)]
    base.begun.clear()
    base.gate.set()
    busy.result(5)
    tickets[0].abandon()
    assert tickets[1].future.result(5).image is not None


def test_who_waited_too_long_is_told_so(base: Recorder, engine: Engine) -> None:
    busy = hold(base, engine)
    late = engine.draw(GenerationRequest("x", 1), PLAIN, time.monotonic() + 0.05)
    other: Ticket = engine.draw(GenerationRequest("x", 2), PLAIN, time.monotonic() + 60)
    time.sleep(0.1)
    base.gate.set()
    busy.result(5)
    with pytest.raises(ServiceUnavailable, match="too long"):
        late.future.result(5)
    assert other.future.result(5).batch == 1


def test_a_damaged_adapter_costs_its_neighbours_nothing(
    base: Recorder, engine: Engine, lora: Callable[[str], AdapterFile], tmp_path: Path
) -> None:
    missing = AdapterFile(tmp_path / "none.safetensors", "0" * 64)
    busy = hold(base, engine)
    good = ask(engine, 1, Settings(lora("a"), 1, 4.0))
    bad = ask(engine, 2, Settings(missing, 1, 4.0))
    base.gate.set()
    busy.result(5)
    with pytest.raises(ArtifactError, match="not on this server"):
        bad.result(5)
    assert good.result(5).batch == 1


def test_an_unforeseen_error_is_the_batch_s_answer(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="CUDA"):
        ask(engine, 1, prompt="crash").result(5)
    ask(engine, 2).result(5)


def test_a_refused_picture_never_leaves_and_its_neighbours_do(
    base: Recorder, engine: Engine
) -> None:
    busy = hold(base, engine)
    waiting = [ask(engine, seed) for seed in (1, 99, 2)]
    base.gate.set()
    busy.result(5)
    one, refused, other = (future.result(5) for future in waiting)
    assert base.batches[-1][1] == [1, 99, 2]
    assert (refused.image, refused.refused, refused.rule) == (None, "picture", "unsafe_image")
    assert one.image is not None
    assert other.image is not None


def test_a_refused_prompt_is_not_drawn_and_its_neighbours_are(
    base: Recorder, engine: Engine
) -> None:
    busy = hold(base, engine)
    waiting = [ask(engine, 1), ask(engine, 2, prompt="bad"), ask(engine, 3)]
    base.gate.set()
    busy.result(5)
    one, refused, other = (future.result(5) for future in waiting)
    assert base.batches[-1][1] == [1, 3]
    assert (refused.image, refused.refused, refused.rule) == (None, "prompt", "meaning")
    assert (one.batch, other.batch) == (2, 2)
    alone = ask(engine, 4, prompt="bad").result(5)
    assert (alone.image, alone.seconds) == (None, 0)
    assert len(base.batches) == 2


def test_a_picture_that_the_guard_could_not_judge_never_leaves(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="the guard broke"):
        ask(engine, 98).result(5)
    assert ask(engine, 1).result(5).image is not None


def test_stopping_cancels_what_runs_and_what_waits(base: Recorder, engine: Engine) -> None:
    busy = hold(base, engine)
    waiting = ask(engine, 1)
    engine.stop()
    for future in (busy, waiting):
        with pytest.raises(Interrupted):
            future.result(5)
    with pytest.raises(ServiceUnavailable, match="stopped"):
        ask(engine, 2)


@pytest.mark.parametrize("error", [ModelError("no weights"), RuntimeError("no weights")])
@pytest.mark.parametrize("missing", ["base model", "guard"])
def test_a_base_or_guard_that_does_not_load_says_why(error: Exception, missing: str) -> None:
    def load() -> Any:
        raise error

    def made() -> Any:
        return None

    engine = Engine(*((load, made) if missing == "base model" else (made, load)))
    with pytest.raises(ServiceUnavailable, match="being loaded"):
        engine.check_ready()
    engine.start()
    engine._thread.join(5)
    with pytest.raises(ServiceUnavailable, match=f"the {missing} can't be loaded: no weights"):
        ask(engine, 1)
