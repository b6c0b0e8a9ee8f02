"""Checkpoints: whole or not there, two kept, and the one before where the last is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_factory.train.checkpoint import load_checkpoint, save_checkpoint


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, "f") is None
    tensors = {"weight.0": torch.randn(3, 4), "optimizer.0.step": torch.tensor(7.0)}
    file = save_checkpoint(tmp_path, 7, tensors, {"fingerprint": "f"})
    found = load_checkpoint(tmp_path, "f")
    assert found is not None
    assert found[1]["step"] == 7
    assert all(torch.equal(found[0][name], tensor) for name, tensor in tensors.items())
    assert list(tmp_path.iterdir()) == [file]


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 50, 500, 5000):
        save_checkpoint(tmp_path, step, {"a": torch.tensor([step])}, {"fingerprint": "f"})
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint-00000500.safetensors", "checkpoint-00005000.safetensors"]


@pytest.mark.parametrize("left", [0, 7, 40, -5])
def test_where_the_last_is_damaged_the_one_before_counts(tmp_path: Path, left: int) -> None:
    for step in (5, 9):
        file = save_checkpoint(tmp_path, step, {"a": torch.ones(99)}, {"fingerprint": "f"})
    file.write_bytes(file.read_bytes()[:left])
    found = load_checkpoint(tmp_path, "f")
    assert found is not None
    assert found[1]["step"] == 5
    assert not file.exists()


def test_another_trainings_are_not_used_and_not_kept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 900, {"a": torch.ones(1)}, {"fingerprint": "other"})
    assert load_checkpoint(tmp_path, "f") is None
    save_checkpoint(tmp_path, 1, {"a": torch.ones(1)}, {"fingerprint": "f"})
    found = load_checkpoint(tmp_path, "f")
    assert found is not None
    assert found[1]["step"] == 1
