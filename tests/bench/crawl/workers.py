"""How much faster two workers are than one, on sites that are slow to answer.

The same site, the same frontier (Redis), whole workers in processes of their own; instead of the
topic classifier a word decides. A second's wait for each page, at most eight at a time from each
of its hosts. From the first page asked for to the last, so that starting Python doesn't count.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from uuid import uuid4

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(path) for path in (
    TESTS.parent / "include", TESTS, TESTS / "integration" / "crawl"
)]  # fmt: skip

from kill_rig import TOPIC, SharedWork, SlowSite  # noqa: E402

from lora_factory.contracts.specs import CrawlSpec  # noqa: E402
from valkey_server import ValkeyServer  # noqa: E402

PAGES, HOSTS, WAIT = 800, 16, 1.0


def seconds(workers: int, folder: Path, server: ValkeyServer) -> float:
    """From the first page to the last."""
    site = SlowSite(PAGES, HOSTS, WAIT, distinct=0)
    spec = CrawlSpec(
        topics=(TOPIC,), seeds=tuple(site.url(n) for n in range(HOSTS)), max_depth=10_000,
        max_pages=PAGES, as_of=date(2026, 11, 24), min_entropy=3.0,
    )  # fmt: skip
    shared = SharedWork(folder, spec, site.hosts, server.url, uuid4().hex, lease=30.0)
    folder.mkdir()
    running = [shared.start()[0] for _ in range(workers)]
    for process in running:
        process.join()
        assert process.exitcode == 0, shared.log[-3000:]
    assert len(site.hits) == PAGES
    site.close()
    return site.times[-1] - site.times[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder, "redis")).start()
        try:
            one, two = (seconds(n, Path(folder, str(n)), server) for n in (1, 2))
        finally:
            server.stop()
    figure = {
        "value": round(one / two, 2),
        "unit": "×",
        "goal": 1.8,
        "better": "higher",
        "against": f"one worker: {PAGES / one:.1f} pages/s, two {PAGES / two:.1f}; {WAIT} s a page",
        "command": "make bench ONLY=crawl",
    }
    sys.stdout.write(json.dumps({"crawl.two_workers_speedup": figure}) + "\n")


if __name__ == "__main__":
    main()
