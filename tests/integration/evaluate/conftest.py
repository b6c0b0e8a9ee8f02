"""Fixtures: dataset, LoRA files, and the stage's context."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from evaluate_samples import TRIGGER, Run, make_dataset, manifest, train_lora

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.models.profiles import load_profile


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"), train=90, validation=12)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA as it is before training: every ``lora_up`` is zero."""
    entry = load_profile("embedded", Settings()).bases["emoji"]
    base = load_base(entry)
    base.add_adapter("fresh", 8, 8, entry.targets)
    file = tmp_path_factory.mktemp("untrained") / "lora.safetensors"
    base.save_adapter("fresh", file, {})
    return file


@pytest.fixture(scope="session")
def lora(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    train_lora(dataset, file)
    return file


@pytest.fixture
def context(tmp_path: Path) -> Run:
    """Make the stage's context for a LoRA file and a dataset folder."""

    def make(lora: Path, dataset: Path, base_revision: str | None = None) -> StageContext:
        folders = {name: tmp_path / name for name in ("lora", "out", "scratch")}
        for folder in folders.values():
            folder.mkdir()
        shutil.copy(lora, folders["lora"] / "lora.safetensors")
        trained = TrainReport(
            base="emoji",
            trigger=TRIGGER,
            rank=8,
            steps=45,
            best_step=45,
            train_loss=0.6,
            validation_loss_before=0.8,
            validation_loss=0.6,
            images_per_second=20,
            peak_memory_mb=900,
        )
        models = {"base:emoji": base_revision} if base_revision else {}
        inputs = {
            "lora": LocalArtifact(
                folders["lora"],
                manifest("lora", trained.model_dump(mode="json"), models),
                "file:///lora",
                "0" * 64,
            ),
            "dataset": LocalArtifact(
                dataset, manifest("dataset", {}, {}), "file:///dataset", "0" * 64
            ),
        }
        return StageContext(inputs, folders["out"], folders["scratch"], Settings(threads=1))

    return make
