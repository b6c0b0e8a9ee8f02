"""A retrain never goes on from a model that was taken down."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from lora_factory.contracts.registry import Model
from lora_factory.contracts.run import RunConf
from lora_factory.feedback.watch import retrain_conf


@pytest.mark.parametrize("taken_down", [None, "https://site.example/a.png"])
def test_nothing_goes_on_from_a_taken_down_model(taken_down: str | None) -> None:
    conf = RunConf(topics=("icons",), seeds=("https://site.example/",)).model_dump(mode="json")
    model = Model(
        name="icons",
        version="a" * 12,
        sha256="a" * 64,
        base="emoji",
        trigger="icnx",
        overall=0.9,
        lora="file:///s/lora/k/manifest.json",
        evaluation="file:///s/evaluation/k/manifest.json",
        conf=conf,
        state="deployed",
        created_at=datetime.now(UTC),
        taken_down=taken_down,
    )
    made = retrain_conf(model, date(2026, 11, 24))
    assert made is not None
    assert (made["parent"] is None) == (taken_down is not None)
    assert (made["incumbent"] is None) == (taken_down is not None)
