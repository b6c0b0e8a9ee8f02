"""Whether a worker's memory grows with the crawl: resident size at the last page and at the 1000th.

One worker on its disk frontier, over small pages with four links and a picture each, of which
500 differ; instead of the topic classifier a word decides. The size is the median of the samples
around a page count.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(path) for path in (
    TESTS.parent / "include", TESTS, TESTS / "integration" / "crawl"
)]  # fmt: skip

import psutil  # noqa: E402
from kill_rig import TOPIC, SharedWork, SlowSite  # noqa: E402

from lora_factory.contracts.specs import CrawlSpec  # noqa: E402

EARLY, PAGES = 1000, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000


def pages_done(file: Path) -> int:
    """Pages settled, read beside the worker."""
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT done FROM counts WHERE kind = 'page'").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0  # not there yet


def main() -> None:
    site = SlowSite(PAGES, hosts=2, seconds=0.0, distinct=500)
    spec = CrawlSpec(
        topics=(TOPIC,), seeds=(site.url(0),), max_depth=10**6, max_pages=PAGES,
        max_images=10 * PAGES, as_of=date(2026, 11, 24), min_entropy=3.0,
    )  # fmt: skip
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        shared = SharedWork(Path(folder), spec, site.hosts)
        process, _ = shared.start()
        assert process.pid is not None
        worker, started = psutil.Process(process.pid), time.monotonic()
        while process.is_alive():
            try:
                size = worker.memory_info().rss / 2**20
            except psutil.Error:
                break
            samples.append((pages_done(shared.folder / "frontier.sqlite"), size))
            time.sleep(0.25)
        process.join()
        assert process.exitcode == 0, shared.log[-3000:]
    early, late = (
        statistics.median(size for done, size in samples if abs(done - at) < 400)
        for at in (EARLY, PAGES)
    )
    rate = PAGES / (time.monotonic() - started)
    figure = {
        "value": round(late / early, 3),
        "unit": "×",
        "goal": 1.1,
        "better": "lower",
        "against": f"{early:.0f} MiB at {EARLY} pages, {late:.0f} at {PAGES} ({rate:.0f} pages/s)",
        "command": "make bench ONLY=crawl",
    }
    sys.stdout.write(json.dumps({"crawl.memory_growth": figure}) + "\n")


if __name__ == "__main__":
    main()
