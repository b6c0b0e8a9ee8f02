"""Pages a second of one worker with every check on, against a plain Scrapy spider.

Both crawl the same server for the same pages of at least 20 kB, in turns, each in a process of
its own; the rate is what the server saw, from the first page to the last. The plain spider does
the same text extraction, parses with BeautifulSoup, and detects the language with lingua.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "rig"))

from bench_site import Site
from bench_tools import HERE, installed, tell

PAGES = 200
TURNS = 2
PLAIN = ("lingua-language-detector", "beautifulsoup4", "soupsieve")


def run(*command: str, **variables: str) -> str:
    """Run a script of this folder."""
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def scrapy_bench() -> float:
    """Pages a second of ``scrapy bench``, which extracts nothing but links."""
    output = run("-m", "scrapy", "bench")
    return max(float(rate) for rate in re.findall(r"\(at (\d+) pages/min\)", output)) / 60


def main() -> None:
    plain_packages = str(installed("plain", PLAIN))
    ours, plain = list[float](), list[float]()
    with Site(pages=3 * PAGES, images=5, licensed=1) as site, tempfile.TemporaryDirectory() as home:
        start = f"http://{site.host}/page/0"
        for turn in range(TURNS):
            folder = str(Path(home) / str(turn))
            run(str(HERE / "our_spider.py"), start, str(PAGES), "100000", folder)
            ours.append(site.rate("page"))
            run(str(HERE / "plain_spider.py"), start, str(PAGES), PYTHONPATH=plain_packages)
            plain.append(site.rate("page"))
    rate, other = statistics.median(ours), statistics.median(plain)
    tell(
        "crawl.pages_vs_plain_spider", rate / other, "x", 1.0,
        f"Scrapy, BeautifulSoup, trafilatura and lingua: {other:.1f} pages/s, here {rate:.1f}",
    )  # fmt: skip
    bare = scrapy_bench()
    tell(
        "crawl.pages_vs_scrapy_bench", rate / bare, "x", 0.0,
        f"scrapy bench, no extraction: {bare:.1f} pages/s (beside it, no goal)",
    )  # fmt: skip
    tell(
        "crawl.pages_a_day", rate * 86_400, "pages", 100_000,
        f"the article's 100,000; one worker, {rate:.1f} pages/s, classifier and politeness apart",
    )  # fmt: skip


if __name__ == "__main__":
    main()
