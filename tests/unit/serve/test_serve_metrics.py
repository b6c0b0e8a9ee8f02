"""Labels stay few, whatever is published."""

from __future__ import annotations

from typing import cast

from lora_factory.serve.engine import Drawn, Engine
from lora_factory.serve.metrics import NAMED, Metrics


class Idle:
    """An engine that has done nothing."""

    depth = swaps = adapter_bytes = 0


def test_adapters_beyond_the_first_ones_share_a_label() -> None:
    metrics = Metrics(cast("Engine", Idle()))
    names = [f"lora-{n}" for n in range(NAMED + 20)]
    for name in [*names, *names]:
        metrics.drew(Drawn(None, 0.1, 0.2, 1), name)
    metrics.drew(Drawn(None, 0.1, 0.2, 1), None)
    metrics.drew(Drawn(None, 0.1, 0.0, 0, "prompt", "rule"), None)
    text = metrics.text().decode()
    lines = [line for line in text.splitlines() if line.startswith("lora_generations_total{")]
    assert len(lines) == NAMED + 2
    assert 'lora_generations_total{adapter="other"} 40.0' in lines
    assert 'lora_generations_total{adapter="base"} 1.0' in lines
