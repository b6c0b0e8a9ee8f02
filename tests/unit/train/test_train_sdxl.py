"""The stage trains an SDXL as it trains any base: two encoders, sizes, buckets, one cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import CacheUse, TrainPlan
from lora_factory.models.profiles import BaseEntry, load_profile
from lora_factory.train import stage
from tiny_sdxl import make_sdxl
from training_data import context, make_dataset, make_plan, plan_artifact

PROFILE = """
[roles]
{bases}
"""
BASE = """
[bases.{name}]
family = "sdxl"
path = "{path}"
domains = ["art"]
resolution = 64
learning_rate = 1e-4
max_rank = 8
steps = 2
guidance = 5.0
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseEntry:
    torch.set_num_threads(1)
    return make_sdxl(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture
def dataset(tmp_path: Path) -> LocalArtifact:
    made = make_dataset(tmp_path / "dataset", train=6, validation=2)
    file = sorted((made.path / "train").glob("*.png"))[0]
    pixels = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return made


def prepare(
    work: Path, dataset: LocalArtifact, tiny: BaseEntry, shared: Path, **changes: object
) -> tuple[StageContext, TrainPlan]:
    profiles = shared / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    text = PROFILE.format(bases=BASE.format(name="xl", path=tiny.location()))
    (profiles / "mine.toml").write_text(text)
    settings = Settings(scratch=shared, profiles=profiles, threads=1)
    entry = load_profile("mine", settings).base("xl", "art")
    plan = make_plan(
        base="xl",
        base_revision=entry.resolve_revision(),
        batch_size=2,
        steps=2,
        resolution=64,
        **changes,
    )
    ctx = context(work, dataset=dataset, plan=plan_artifact(work / "plan", plan))
    return StageContext(ctx.inputs, ctx.out, ctx.scratch, settings, ctx.stop), plan


def test_an_sdxl_is_trained_and_its_cache_is_the_next_runs(
    tmp_path: Path, dataset: LocalArtifact, tiny: BaseEntry
) -> None:
    spec = TrainSpec(dataset="d", plan="p", profile="mine")
    ctx, _ = prepare(tmp_path / "one", dataset, tiny, tmp_path / "shared")
    first = stage.run(spec, ctx)
    assert sum(first.buckets.values()) == 6
    assert first.cache == CacheUse(encoded=6 + 2 + 6 + 2 + 1, found=1)  # the empty prompt, twice
    again, _ = prepare(tmp_path / "two", dataset, tiny, tmp_path / "shared")
    second = stage.run(spec, again)
    assert second.cache == CacheUse(found=18)
    assert second.validation_loss == first.validation_loss
    one, two = (load_file(c.out / "lora.safetensors") for c in (ctx, again))
    assert all(torch.equal(one[key], two[key]) for key in one)
    # Another plan shares what it can: the text, not the crops.
    third, _ = prepare(tmp_path / "three", dataset, tiny, tmp_path / "shared", flip=False)
    assert stage.run(spec, third).cache == CacheUse(encoded=8, found=10)
