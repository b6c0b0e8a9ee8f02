from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_factory.crawl.topics import BATCH, TopicBatcher


class LengthClassifier:
    """Scores a text by its length; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> NDArray[np.float32]:
        """n×t lengths."""
        self.batches.append(len(texts))
        return np.array([[len(text)] * len(topics) for text in texts], dtype=np.float32)


def test_pages_at_hand_are_scored_together_and_keep_their_order() -> None:
    classifier = LengthClassifier()

    async def ask() -> list[dict[str, float]]:
        batcher = TopicBatcher(classifier, ["a", "b"])
        return await asyncio.gather(*(batcher.scores("t", "x" * n) for n in range(BATCH + 3)))

    found = asyncio.run(ask())
    assert found == [{"a": 3.0 + n, "b": 3.0 + n} for n in range(BATCH + 3)]
    assert classifier.batches == [BATCH, 3]


def test_a_failing_model_fails_the_page() -> None:
    class Broken:
        def scores(self, texts: Sequence[str], topics: Sequence[str]) -> NDArray[np.float32]:
            msg = "no memory"
            raise RuntimeError(msg)

    async def ask() -> None:
        await TopicBatcher(Broken(), ["a"]).scores("t", "x")

    with pytest.raises(RuntimeError, match="no memory"):
        asyncio.run(ask())
