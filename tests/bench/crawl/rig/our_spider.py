"""One worker with every check on, the topic classifier apart: each page is on topic.

python tests/bench/crawl/rig/our_spider.py START PAGES IMAGES FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "include"))

from lora_factory.contracts.expansion import alone
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl import web


class OnTopic:
    """Scores without a model."""

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> Any:
        return np.ones((len(texts), len(topics)))


def main(start: str, pages: int, images: int, folder: Path) -> None:
    settings = Settings.model_validate({
        "crawl_hosts": (urlsplit(start).netloc,),
        "crawl_public": False,
        "scratch": folder / "scratch",
    })
    spec = CrawlSpec.model_validate({
        "topics": ["documentation"],
        "seeds": [start],
        "as_of": "2026-11-24",
        "max_pages": pages,
        "max_images": images,
    })
    web.topic_classifier = lambda entry: OnTopic()  # type: ignore[assignment]
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    context = StageContext({}, folder / "out", folder / "work", settings)
    report = web.crawl_web(spec, context, alone(spec.topics))
    sys.stdout.write(f"{report.pages_seen} pages {report.pages_kept} kept {report.counts.kept}\n")
    sys.stdout.write(f"{report.pages_dropped} {report.counts.dropped}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
