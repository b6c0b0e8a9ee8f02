"""The monitor on curves made by hand: what it must see, and what it must leave alone."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from lora_factory.contracts.options import TrainingAction
from lora_factory.train.monitor import ProbePoint, TrainingMonitor
from training_data import read_rows

IMAGES = (list(range(8)) * 4, list(range(6)) * 5)


def run_of(
    file: Path,
    train: list[float],
    validation: list[float],
    *,
    noise: float = 0.0,
    images: tuple[list[int], list[int]] = IMAGES,
    spread: list[float] | None = None,
    seed: int = 0,
) -> TrainingMonitor:
    """A monitor whose probes' losses are these means times what each draw's difficulty is."""
    draw = random.Random(seed)
    hard = [[draw.uniform(0.2, 3.0) for _ in split] for split in images]
    monitor = TrainingMonitor(file, images)
    for number, (one, two) in enumerate(zip(train, validation, strict=True)):
        losses = [
            tuple(mean * share * (1 + draw.gauss(0, noise)) for share in split)
            for mean, split in zip((one, two), hard, strict=True)
        ]
        means = [sum(split) / len(split) for split in losses]
        monitor.log_probe(
            ProbePoint(10 * number, *means, *losses, spread=spread[number] if spread else 1.0)
        )
    return monitor


FALLING = [0.5, 0.42, 0.36, 0.3, 0.26, 0.22, 0.2, 0.18]
RISING = [0.5, 0.46, 0.45, 0.47, 0.5, 0.53, 0.55, 0.58]


def test_overfitting_is_seen_with_its_evidence(tmp_path: Path) -> None:
    seen = run_of(tmp_path / "a", FALLING, RISING, noise=0.02).detect_overfitting()
    assert seen is not None
    assert seen["ratio"] > 2
    assert 1 < seen["ratio_low"] < seen["ratio"]
    assert 0 < seen["rise_low"] < seen["rise"]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([0.5] * 8, [0.9] * 8),  # validation is harder from the start
        (FALLING, [0.5, 0.47, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41]),  # slower, but it learns
        (RISING, RISING),  # both rise: not overfitting
        (FALLING[:5], RISING[3:]),  # too short to say
    ],
)
def test_what_is_not_overfitting(
    tmp_path: Path, train: list[float], validation: list[float]
) -> None:
    assert run_of(tmp_path / "a", train, validation, noise=0.02).detect_overfitting() is None


@pytest.mark.parametrize("seed", range(8))
def test_a_rise_that_chance_explains_is_none(tmp_path: Path, seed: int) -> None:
    """Draws are fixed, so what is left of chance is how the weights wobble."""
    flat = [0.5, 0.46, 0.455, 0.46, 0.458, 0.461, 0.459, 0.46]
    monitor = run_of(tmp_path / "a", FALLING, flat, noise=0.03, seed=seed)
    assert monitor.detect_overfitting() is None


def test_three_images_say_nothing(tmp_path: Path) -> None:
    few = (IMAGES[0], [0, 1, 2] * 10)
    assert run_of(tmp_path / "a", FALLING, RISING, images=few).detect_overfitting() is None


def test_after_a_reaction_only_later_probes_count(tmp_path: Path) -> None:
    monitor = run_of(tmp_path / "a", FALLING, RISING)
    assert monitor.detect_overfitting(since=71) is None
    assert monitor.detect_overfitting(since=21) is None
    assert monitor.detect_overfitting(since=20) is not None


def test_predictions_that_grow_alike_are_a_collapse(tmp_path: Path) -> None:
    spread = [0.8, 0.7, 0.6, 0.4, 0.35, 0.3, 0.2, 0.2]
    seen = run_of(tmp_path / "a", FALLING, RISING, spread=spread).detect_mode_collapse()
    assert seen == {"spread": pytest.approx(0.7 / 3), "spread_before": 0.8}


def test_predictions_that_varied_too_much_may_settle(tmp_path: Path) -> None:
    spread = [1.9, 1.4, 1.1, 0.9, 0.8, 0.7, 0.7, 0.7]
    assert run_of(tmp_path / "a", FALLING, RISING, spread=spread).detect_mode_collapse() is None


def test_a_resumed_monitor_forgets_what_lies_after_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    monitor = TrainingMonitor(file)
    for step in range(1, 6):
        monitor.log({"step": step, "loss": 1.0 / step, "lr": 0.1, "grad_norm": 1.0})
        if step == 2:
            monitor.act(TrainingAction(step=2, what="memory", did="less", evidence={"x": 2.0}))
    file.write_text(file.read_text() + '{"step": 6, "lo')  # killed while writing
    again = TrainingMonitor(file)
    rows = again.resume(3)
    assert again.losses == [1.0, 1 / 2, 1 / 3]
    assert again.actions == monitor.actions
    assert [row["step"] for row in read_rows(file)] == [1, 2, 2, 3]
    assert again.recent_loss(2) == pytest.approx(5 / 12)
    other = TrainingMonitor(tmp_path / "none", write=False)
    assert math.isnan(other.recent_loss())
    other.follow(rows)
    assert other.losses == again.losses
    assert not (tmp_path / "none").exists()


def test_probes_come_back_exactly(tmp_path: Path) -> None:
    monitor = run_of(tmp_path / "a", FALLING, RISING, noise=0.1)
    again = TrainingMonitor(tmp_path / "a", IMAGES)
    again.resume(10**9)
    assert again.probes == monitor.probes
