"""The learning rate of each step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lora_factory.contracts.options import TrainOptions
from lora_factory.train.schedule import epoch_turns, lr_factor
from training_data import make_plan


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    plan = make_plan(steps=100, warmup_steps=4)
    rates = [lr_factor(step, plan) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[52] == pytest.approx(0.5)
    assert all(one >= two for one, two in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_the_articles_decay_is_a_twentieth_each_epoch_after_the_warm_up() -> None:
    plan = make_plan(steps=100, warmup_steps=4, options=TrainOptions(schedule="decay"))
    assert epoch_turns(plan) == 2  # 8 images, 4 at a time
    rates = [lr_factor(step, plan) for step in range(100)]
    assert rates[3] == pytest.approx(0.8)
    for epoch in range(48):
        assert rates[4 + 2 * epoch] == rates[5 + 2 * epoch] == pytest.approx(0.95**epoch)


def test_an_epoch_counts_repeats() -> None:
    assert epoch_turns(make_plan(repeats=5, batch_size=2, gradient_accumulation=2)) == 10


def test_a_constant_rate_only_warms_up() -> None:
    plan = make_plan(steps=9, warmup_steps=2, options=TrainOptions(schedule="constant"))
    assert [lr_factor(step, plan) for step in range(9)] == pytest.approx([1 / 3, 2 / 3] + [1] * 7)
