"""Fixtures: dataset, LoRA files, and the stage's context."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from evaluate_samples import Run, make_context, make_dataset, train_lora

from lora_factory.contracts.settings import Settings
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


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine's working folder: the base's pictures are made once for all tests."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture
def context(tmp_path: Path, shared: Path) -> Run:
    """Make the stage's context, see :func:`evaluate_samples.make_context`."""
    return partial(make_context, tmp_path, shared)
