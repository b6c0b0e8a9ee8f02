"""What a training shows besides its weights: pictures on the way, curves for TensorBoard."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from lora_factory.contracts.options import TrainingAction
from lora_factory.contracts.training import TrainPlan
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.train import samples, stage
from lora_factory.train.adaptive import MARGIN, adapt_rank
from lora_factory.train.events import FILE, FOLDER, TAGS
from lora_factory.train.monitor import TrainingMonitor
from lora_factory.train.samples import Samples, sample_prompts, sample_steps
from training_data import context, make_dataset, make_plan, plan_artifact, read_rows

SPEC = stage.TrainSpec(dataset="d", plan="p")


@pytest.fixture(autouse=True)
def one_base(base: DiffusionBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(_entry: object) -> DiffusionBase:
        base.drop_adapter(stage.ADAPTER)
        return base

    monkeypatch.setattr(stage, "load_base", loaded)


def events(file: Path) -> list[Event]:
    """Records of an event file: length, its checksum, data, its checksum."""
    data, found = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def scalars(file: Path) -> dict[tuple[str, int], float]:
    """(tag, step) → value."""
    return {
        (value.tag, event.step): value.simple_value
        for event in events(file)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def train(work: Path, plan: TrainPlan, **changes: Any) -> tuple[Any, Any]:
    dataset = make_dataset(work / "dataset", train=8, validation=4)
    ctx = context(work, dataset=dataset, plan=plan_artifact(work / "plan", plan))
    return stage.run(SPEC, dataclasses.replace(ctx, **changes)), ctx


def test_pictures_and_curves_of_a_training(
    tmp_path: Path, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SHARE", 100.0)  # here the clock doesn't matter
    options = {"samples": 2, "adaptive_rank": True}
    plan = make_plan(steps=12, epochs=2, learning_rate=1e-2, options=options)
    report, ctx = train(tmp_path, plan)
    names = ["step-000006-0.png", "step-000012-0.png", "step-000012-1.png"]  # the first: a trial
    assert report.samples == tuple(f"samples/{name}" for name in names)
    pixels = [np.asarray(Image.open(ctx.out / "samples" / name), dtype=int) for name in names]
    assert {each.shape for each in pixels} == {(64, 64, 3)}
    assert np.abs(pixels[0] - pixels[1]).max() > 3  # same prompt and seed: training moved it
    told = json.loads((ctx.out / "samples" / "prompts.json").read_text())
    assert told["prompts"] == sample_prompts(ctx, 2)
    assert all(prompt.startswith("hcxq ") for prompt in told["prompts"])
    assert not base._parts._loaded.keys() & {"vae", "text_encoder"}  # type: ignore[attr-defined]

    found = scalars(ctx.out / FOLDER / FILE)
    assert list((ctx.out / FOLDER).iterdir()) == [ctx.out / FOLDER / FILE]
    for row in read_rows(ctx.out / "training.jsonl"):
        for name in TAGS.keys() & row.keys():
            assert found[TAGS[name], int(row["step"])] == pytest.approx(row[name])

    cut = report.truncation
    assert cut is not None
    assert report.rank == max(cut.ranks.values()) <= 4
    assert min(cut.ranks.values()) >= 1
    assert cut.bytes_after == (ctx.out / "lora.safetensors").stat().st_size < cut.bytes_before
    gained = report.validation_loss_before - cut.probe_before
    assert cut.probe_after <= cut.probe_before + MARGIN * gained
    parent = base.read_adapter(ctx.out / "lora.safetensors")  # per-layer ranks can be gone on from
    base.drop_adapter(stage.ADAPTER)
    base.add_adapter(stage.ADAPTER, parent.rank, 4.0, tuple(parent.layers))
    base.copy_into_adapter(stage.ADAPTER, parent)


def test_losses_are_the_same_with_pictures_and_without(tmp_path: Path) -> None:
    rows = []
    for count in (0, 2):
        report, ctx = train(
            tmp_path / str(count), make_plan(epochs=4, steps=4, options={"samples": count})
        )
        assert bool(report.samples) == bool(count) == (ctx.out / "samples").exists()
        rows.append(read_rows(ctx.out / "training.jsonl"))
    assert rows[0] == rows[1]


def test_a_cut_that_costs_too_much_is_not_made(tmp_path: Path, base: DiffusionBase) -> None:
    base.add_adapter(stage.ADAPTER, 2, 2.0, ("to_q",))
    file = tmp_path / "lora.safetensors"
    base.save_adapter(stage.ADAPTER, file, {})
    losses = iter([0.5, *[float("nan")] * 3, *[0.6] * 4])
    before = file.read_bytes()
    found = adapt_rank(base, stage.ADAPTER, file, 1.0, lambda: next(losses))
    assert (found.energy, found.probe_after, set(found.ranks.values())) == (1.0, 0.5, {2})
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("steps", "epochs", "due"),
    [(80, 2, [40, 80]), (240, 10, [40, 80, 120, 160, 200, 240]), (2, 9, [1, 2]), (1, 1, [1])],
)
def test_when_pictures_are_drawn(steps: int, epochs: int, due: list[int]) -> None:
    assert sample_steps(steps, epochs) == due


class SlowBase:
    """What :class:`Samples` needs of a base; ``seconds`` a picture by its clock."""

    device = "cpu"

    def __init__(self, seconds: float) -> None:
        self.entry = make_entry()
        self.seconds, self.now, self.drawn = seconds, 0.0, [0]

    def generate(self, requests: Any, **_how: Any) -> list[Image.Image]:
        self.now += self.seconds * len(requests)
        self.drawn[-1] += len(requests)
        return [Image.new("RGB", (8, 8)) for _ in requests]

    def release_encoders(self) -> None:
        """Has none."""


def make_entry() -> Any:
    from training_data import embedded_base

    return embedded_base().entry


@pytest.mark.parametrize(("seconds", "drawn"), [(0.01, 16), (0.5, 3), (1.0, 1), (100.0, 1)])
def test_where_drawing_is_slow_there_are_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, drawn: int
) -> None:
    slow: Any = SlowBase(seconds)
    monkeypatch.setattr(samples.time, "monotonic", lambda: slow.now)
    ctx = context(tmp_path)
    painter = Samples(make_plan(steps=60, epochs=6), slow, ["a", "b", "c"], ctx)
    for step in range(1, 61):
        if painter.due(step - 1, step):
            painter.draw(step, 0.5 * step)  # 30 s in all: pictures may take 1.5
    assert slow.drawn == [drawn]
    assert slow.now <= max(1.5, seconds)


def test_a_stop_ends_the_drawing_and_a_resume_forgets(tmp_path: Path, base: DiffusionBase) -> None:
    ctx = dataclasses.replace(context(tmp_path), stop=threading.Event())
    painter = Samples(make_plan(), base, ["a"], ctx)
    painter.draw(2, 1.0)
    ctx.stop.set()
    painter.draw(4, 1e6)  # no exception: the loop has its checkpoint to write
    assert [file.name for file in (ctx.scratch / "samples").glob("*.png")] == ["step-000002-0.png"]
    painter.resume(1)
    assert not list((ctx.scratch / "samples").glob("*.png"))
    assert painter.publish(ctx.out, 8) == ()


def test_curves_go_on_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    rows = [{"step": step, "loss": 1 / step, "lr": 0.1, "grad_norm": 1.0} for step in range(1, 9)]
    first = TrainingMonitor(file)
    first.resume(-1)
    for row in rows[:6]:
        first.log(row)
    second = TrainingMonitor(file)  # the first never closed its events
    second.resume(4)
    for row in rows[4:]:
        second.log(row)
    second.act(TrainingAction(step=8, what="time", did="ended in order"))
    assert second.events is not None
    out = tmp_path / "out"
    out.mkdir()
    second.events.publish(out)
    found = scalars(out / FOLDER / FILE)
    assert [step for tag, step in found if tag == "train/loss"] == list(range(1, 9))
    assert b"ended in order" in (out / FOLDER / FILE).read_bytes()
