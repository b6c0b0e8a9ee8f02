"""Short real trainings on the embedded base: resume, stop, divergence, parent, cache."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainPlan
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.errors import ArtifactError, Interrupted, ModelError, TrainingError
from lora_factory.train import stage
from lora_factory.train.cache import open_cache
from lora_factory.train.data import Split, load_split
from training_data import artifact, context, make_dataset, make_plan, plan_artifact, read_rows

SPEC = TrainSpec(dataset="d", plan="p")


@pytest.fixture(autouse=True)
def one_base(base: DiffusionBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage gets the room's loaded base instead of loading it each time."""

    def loaded(_entry: object) -> DiffusionBase:
        base.drop_adapter(stage.ADAPTER)
        return base

    monkeypatch.setattr(stage, "load_base", loaded)


@pytest.fixture
def dataset(tmp_path: Path) -> LocalArtifact:
    return make_dataset(tmp_path / "dataset", train=8, validation=4)


def loaded(plan: TrainPlan, base: DiffusionBase, ctx: StageContext) -> Split:
    """The training split, through the cache."""
    with open_cache(ctx.settings) as cache:
        split = load_split("train", plan, base, ctx, cache)
    assert split is not None
    return split


def prepare(
    work: Path, dataset: LocalArtifact, plan: TrainPlan | None = None, **inputs: LocalArtifact
) -> StageContext:
    plan = plan or make_plan()
    return context(work, dataset=dataset, plan=plan_artifact(work / "plan", plan), **inputs)


class StopsAfter(threading.Event):
    """Set once it was asked ``count`` times: stops a training at an exact step."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_a_training_writes_what_it_promises(tmp_path: Path, dataset: LocalArtifact) -> None:
    plan = make_plan(steps=20, learning_rate=1e-2, options={})
    ctx = prepare(tmp_path / "a", dataset, plan)
    report = stage.run(SPEC, ctx)
    assert {file.name for file in ctx.out.iterdir()} == {
        "lora.safetensors",
        "training.jsonl",
        "loss.png",
        "checkpoints",
        "samples",
        "tensorboard",
    }
    rows = read_rows(ctx.out / "training.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))
    probes = [row["val"] for row in rows if "val" in row]
    assert report.validation_loss_before == probes[0]
    assert report.validation_loss == min(probes) < 0.98 * probes[0]
    assert (report.steps, report.rank, report.trigger) == (20, 4, "hcxq")
    assert report.best_step > 0
    assert report.images_per_second > 0
    assert report.peak_memory_mb > 50


def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, dataset: LocalArtifact
) -> None:
    whole = prepare(tmp_path / "whole", dataset)
    stage.run(SPEC, whole)
    broken = prepare(tmp_path / "broken", dataset)
    # Asked once by each of the two splits' two encodings, then once a step.
    with pytest.raises(Interrupted):
        stage.run(SPEC, dataclasses.replace(broken, stop=StopsAfter(4 + 5)))
    assert (broken.scratch / "checkpoint-00000005.safetensors").exists()
    assert not any(broken.out.iterdir())
    report = stage.run(SPEC, broken)
    assert report.resumed_from == 5
    rows = [read_rows(ctx.out / "training.jsonl") for ctx in (whole, broken)]
    assert rows[0] == rows[1]
    for name in ("lora.safetensors", *report.checkpoints):
        files = [load_file(ctx.out / name) for ctx in (whole, broken)]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_a_killed_training_goes_on_from_its_last_checkpoint(
    tmp_path: Path, dataset: LocalArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_factory.train.loop.CHECKPOINT_SECONDS", 0.0)
    ctx = prepare(tmp_path / "a", dataset)
    save = stage.LoRATrainer._checkpoint
    count = iter(range(100))

    def dies_at_the_third(trainer: stage.LoRATrainer) -> str:
        if next(count) == 2:
            raise KeyboardInterrupt  # what no handler of ours may turn into a clean end
        return save(trainer)

    monkeypatch.setattr(stage.LoRATrainer, "_checkpoint", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        stage.run(SPEC, ctx)
    monkeypatch.setattr(stage.LoRATrainer, "_checkpoint", save)
    report = stage.run(SPEC, ctx)
    assert report.resumed_from == 2
    steps = [row["step"] for row in read_rows(ctx.out / "training.jsonl") if "loss" in row]
    assert steps == list(range(1, 9))


def test_snapshots_are_earlier_weights_that_a_base_loads(
    tmp_path: Path, dataset: LocalArtifact, base: DiffusionBase
) -> None:
    ctx = prepare(tmp_path / "a", dataset, make_plan(steps=24, learning_rate=1e-2))
    report = stage.run(SPEC, ctx)  # probes at 10, 20 and 24
    assert report.checkpoints == tuple(f"checkpoints/step-{n:06d}.safetensors" for n in (6, 12, 18))
    assert sorted(file.name for file in (ctx.out / "checkpoints").iterdir()) == [
        name.rpartition("/")[2] for name in report.checkpoints
    ]
    sizes = []
    for name in report.checkpoints:
        read = base.read_adapter(ctx.out / name)
        sizes.append(sum(pair.up.square().sum().item() for pair in read.layers.values()))
        assert read.metadata["ss_steps"] == str(int(name[17:23]))
    assert sizes == sorted(set(sizes))  # up starts at zero and grows
    kept = base.read_adapter(ctx.out / "lora.safetensors")
    assert kept.metadata["ss_steps"] == str(report.best_step)


def test_snapshots_of_another_plan_are_not_published(
    tmp_path: Path, dataset: LocalArtifact
) -> None:
    ctx = prepare(tmp_path / "a", dataset, make_plan(steps=8))
    with pytest.raises(Interrupted):
        stage.run(SPEC, dataclasses.replace(ctx, stop=StopsAfter(4 + 5)))
    assert len(list((ctx.scratch / "checkpoints").iterdir())) == 2
    (tmp_path / "a/plan/plan.json").write_text(make_plan(steps=3).model_dump_json())
    report = stage.run(SPEC, ctx)
    assert report.resumed_from == 0
    steps = [int(name[17:23]) for name in report.checkpoints]
    assert set(steps) <= {1, 2} - {report.best_step}
    assert len(list((ctx.scratch / "checkpoints").iterdir())) == 2


def test_a_checkpoint_of_another_plan_is_not_used(tmp_path: Path, dataset: LocalArtifact) -> None:
    ctx = prepare(tmp_path / "a", dataset)
    with pytest.raises(Interrupted):
        stage.run(SPEC, dataclasses.replace(ctx, stop=StopsAfter(4 + 3)))
    (tmp_path / "a/plan/plan.json").write_text(make_plan(steps=4).model_dump_json())
    assert stage.run(SPEC, ctx).resumed_from == 0


def test_divergence_names_the_images_of_the_batch(
    tmp_path: Path, dataset: LocalArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = prepare(tmp_path / "a", dataset, make_plan(flip=False))
    poisoned = ""

    def poison(split: str, *rest: object) -> object:
        nonlocal poisoned
        loaded = load_split(split, *rest)  # type: ignore[arg-type]
        if split == "train" and loaded is not None:
            loaded.buckets[0].mean[0, 0, 5, 0, 0, 0] = torch.nan
            poisoned = loaded.files[5]
        return loaded

    monkeypatch.setattr(stage, "load_split", poison)
    with pytest.raises(TrainingError, match="loss is nan") as caught:
        stage.run(SPEC, ctx)
    assert poisoned in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(ctx.out.iterdir())


def test_training_goes_on_from_a_parent(tmp_path: Path, dataset: LocalArtifact) -> None:
    first = prepare(
        tmp_path / "first", dataset, make_plan(steps=16, learning_rate=1e-2, rank=4, alpha=2.0)
    )
    trained = stage.run(SPEC, first)
    parent = artifact(first.out, "lora")
    # Another rank in the plan: the parent's counts.
    second = prepare(
        tmp_path / "second", dataset, make_plan(steps=2, rank=8, alpha=4.0), parent=parent
    )
    report = stage.run(SPEC, second)
    assert report.rank == 4
    assert report.validation_loss_before < 0.98 * trained.validation_loss_before
    assert report.validation_loss_before == pytest.approx(trained.validation_loss, rel=1e-4)


def test_training_goes_on_from_the_parents_file_that_is_deployed(
    tmp_path: Path, dataset: LocalArtifact
) -> None:
    first = prepare(tmp_path / "first", dataset, make_plan(steps=12, learning_rate=1e-2))
    trained = stage.run(SPEC, first)
    assert trained.checkpoints[0] == "checkpoints/step-000003.safetensors"
    losses = []
    for number, name in enumerate((trained.checkpoints[0], "lora.safetensors")):
        spec = SPEC.model_copy(update={"parent_checkpoint": name})
        parent = artifact(first.out, "lora")
        ctx = prepare(tmp_path / f"on{number}", dataset, make_plan(steps=1), parent=parent)
        losses.append(stage.run(spec, ctx).validation_loss_before)
    assert losses[1] < losses[0] < trained.validation_loss_before


def test_one_edited_image_is_one_encoding(
    tmp_path: Path, dataset: LocalArtifact, base: DiffusionBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = base.encode_images

    def counting(images: list[Image.Image]) -> object:
        encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(base, "encode_images", counting)
    ctx, plan = prepare(tmp_path / "a", dataset), make_plan()
    first = loaded(plan, base, ctx)
    assert encoded == [8, 8]  # upright and mirrored
    image = dataset.path / "train" / first.files[3]
    with Image.open(image) as opened:
        opened.convert("L").point(lambda value: 255 - value).convert("RGB").save(image)
    second = loaded(plan, base, ctx)
    assert encoded == [8, 8, 1, 1]
    one, two = first.buckets[0].mean[0], second.buckets[0].mean[0]
    changed = (one != two).flatten(2).any(dim=2).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_latents_are_the_encoders_and_mirrored_ones_too(
    tmp_path: Path, dataset: LocalArtifact, base: DiffusionBase
) -> None:
    split = loaded(make_plan(), base, prepare(tmp_path / "a", dataset))
    (bucket,) = split.buckets
    with Image.open(dataset.path / "train" / split.files[2]) as image:
        upright = image.convert("RGB")
    mirrored = Image.fromarray(np.asarray(upright)[:, ::-1].copy())
    for index, picture in enumerate((upright, mirrored)):
        mean, std = base.encode_images([picture])
        assert torch.allclose(bucket.mean[0, index, 2], mean[0], atol=1e-5)
        assert torch.allclose(bucket.std[0, index, 2], std[0], atol=1e-5)


def test_bad_inputs_are_one_line_errors(tmp_path: Path, dataset: LocalArtifact) -> None:
    changed = prepare(tmp_path / "a", dataset, make_plan(base_revision="sha256:other"))
    with pytest.raises(ModelError, match="changed since the plan was made"):
        stage.run(SPEC, changed)
    (tmp_path / "a/plan/plan.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"plan\.json can't be read"):
        stage.run(SPEC, changed)
    ctx = prepare(tmp_path / "b", dataset)
    victim = sorted((dataset.path / "train").glob("*.png"))[0]
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=victim.name):
        stage.run(SPEC, ctx)
    victim.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        stage.run(SPEC, ctx)


def test_without_a_validation_split_the_probe_uses_training_images(tmp_path: Path) -> None:
    ctx = prepare(tmp_path / "a", make_dataset(tmp_path / "d", train=6, validation=0))
    assert stage.run(SPEC, ctx).steps == 8


def test_small_memory_accumulates_to_the_same_gradient(
    tmp_path: Path, dataset: LocalArtifact
) -> None:
    losses = []
    for batch, accumulation in ((4, 1), (2, 2)):
        plan = make_plan(batch_size=batch, gradient_accumulation=accumulation, steps=3)
        ctx = prepare(tmp_path / str(batch), dataset, plan)
        stage.run(SPEC, ctx)
        rows = read_rows(ctx.out / "training.jsonl")
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
