"""Topic scores of pages, many at a time, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lora_factory.models.roles import TopicClassifier

TEXT = 2000  # characters of a page that are classified; models read a few hundred tokens
BATCH = 16
GATHER = 0.05  # seconds to wait for more pages before a batch is scored


class TopicBatcher:
    """Collects pages that come in while a batch is being scored, and scores them together."""

    def __init__(self, classifier: TopicClassifier, topics: Sequence[str]) -> None:
        self._classifier, self._topics = classifier, tuple(topics)
        self._waiting: list[tuple[str, asyncio.Future[dict[str, float]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def scores(self, title: str, text: str) -> dict[str, float]:
        """Topic → score of one page, higher is closer."""
        done: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()
        self._waiting.append((f"{title}. {text[:TEXT]}", done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return await done

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            texts = [text for text, _ in batch]
            try:
                rows = await asyncio.to_thread(self._classifier.scores, texts, self._topics)
            except Exception as err:
                # Each page's own coroutine gets it, and the spider's boundary counts it there.
                for _, done in batch:
                    if not done.done():  # a stopped crawl cancels them
                        done.set_exception(err)
                continue
            for row, (_, done) in zip(rows, batch, strict=True):
                if not done.done():
                    done.set_result({
                        t: round(float(s), 4) for t, s in zip(self._topics, row, strict=True)
                    })
