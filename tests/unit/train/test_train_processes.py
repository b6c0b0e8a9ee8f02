"""Trainings in processes of their own: killed at any moment, and shared by two."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import team_training
from training_data import read_rows

STEPS = 8


def start(folder: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, team_training.__file__, str(folder), str(processes), str(STEPS)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        },
        stderr=(folder / "log").open("wb"),
    )


def finish(folder: Path, processes: int = 1) -> list[dict[str, float]]:
    status = start(folder, processes).wait()
    assert status == 0, (folder / "log").read_text()[-3000:]
    return read_rows(folder / "out" / "training.jsonl")


def steps_of(folder: Path) -> int:
    """Steps that the folder's training has logged."""
    file = folder / "scratch" / "training.jsonl"
    return file.read_text().count('"loss"') if file.exists() else 0


def die_at(folder: Path, step: int, delay: float) -> None:
    """Start it, and kill -9 it some milliseconds after it logged ``step``."""
    process = start(folder)
    while steps_of(folder) < step and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.wait()


def equal(one: Path, two: Path) -> bool:
    names = sorted(file.relative_to(one / "out") for file in (one / "out").rglob("*.safetensors"))
    files = [[load_file(folder / "out" / name) for name in names] for folder in (one, two)]
    return all(
        torch.equal(tensor, second[key])
        for first, second in zip(*files, strict=True)
        for key, tensor in first.items()
    )


@pytest.mark.slow
def test_a_training_killed_at_any_step_is_bit_for_bit_the_whole_one(tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole")
    draw = random.Random(os.getpid())
    die_at(tmp_path / "killed", draw.randint(1, STEPS - 1), draw.uniform(0, 0.5))
    assert finish(tmp_path / "killed") == whole
    assert equal(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.chaos
def test_killed_again_and_again(tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole")
    draw = random.Random(os.getpid())
    for step in sorted(draw.sample(range(1, STEPS), 5)):
        die_at(tmp_path / "killed", step, draw.uniform(0, 0.5))
    assert finish(tmp_path / "killed") == whole
    assert equal(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    one, two = finish(tmp_path / "one"), finish(tmp_path / "two", processes=2)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for name in ("loss", "val", "train_probe"):
        losses = [[row[name] for row in rows if name in row] for rows in (one, two)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
