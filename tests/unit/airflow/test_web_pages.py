"""Pages inside the Airflow UI, without Airflow's server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lora_factory.contracts.crawl import (
    CrawlStatus,
    FrontierStatus,
    HostStatus,
    QueueStatus,
    WorkerStatus,
)
from lora_factory_airflow.web import app

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "<script>alert(1)</script>"


def crawl(**changes: object) -> CrawlStatus:
    found = FrontierStatus(
        pages=QueueStatus(queued=5, in_flight=1, done=7, limit=100),
        images=QueueStatus(done=3, limit=50),
        hosts=(HostStatus(host=f"{HOSTILE}.example", queued=5, delay=1.5),),
        hosts_total=40,
        workers=(
            WorkerStatus(worker="a:1", last_seen=2, rate=1.5),
            WorkerStatus(worker="b:2", last_seen=200, stalled=True),
        ),
        reasons={"kept": 2, HOSTILE: 9},
        rate=1.5,
    )
    values = {
        "crawl": "c0ffee",
        "topics": ("blue & green cats",),
        "source": "web",
        "workers": 2,
        "max_pages": 100,
        "max_images": 50,
        "started": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "state": "running",
        "seconds_left": 4000.0,
        "frontier": found,
        **changes,
    }
    return CrawlStatus.model_validate(values)


class Tags(HTMLParser):
    """Names of the tags a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_a_page_shows_what_there_is_and_runs_nothing() -> None:
    html = app.render([crawl()])
    assert "script" not in Tags(html).found
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.example" in html
    assert "blue &amp; green cats" in html
    for words in (
        "7 <small>of at most 100",
        "5 queued, 1 leased",
        "67 min",
        "1 <small>of 2 alive",
        "dead, 3 min ago",
        "and 15 more hosts",
        '<meta http-equiv="refresh" content="3">',
    ):
        assert words in html
    assert html.index(HOSTILE.replace("<", "&lt;").replace(">", "&gt;") + "</td><td>9") < (
        html.index("<td>kept</td>")
    )


@pytest.mark.parametrize(
    ("state", "words"), [("stalled", "no server has answered for"), ("deserted", "they go on")]
)
def test_trouble_is_said_in_words(state: str, words: str) -> None:
    assert words in app.render([crawl(state=state)])
    assert words not in app.render([crawl()])


def test_nothing_to_see_is_said_in_words() -> None:
    assert "No crawl is shared by workers now" in app.render([])
    html, status = asyncio.run(app.crawls_page())
    assert status == 200
    assert "set LORA_FACTORY_CRAWL_REDIS" in html
    body, status = asyncio.run(app.crawls_data())
    assert (status, list(body)) == (503, ["error"])


def test_a_redis_that_is_away_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_FACTORY_CRAWL_REDIS", "redis://:s3cret@127.0.0.1:1/0")
    html, status = asyncio.run(app.crawls_page())
    assert status == 503
    assert "does not answer" in html
    assert "s3cret" not in html


def test_the_api_server_loads_no_model() -> None:
    code = (
        "import asyncio, sys\n"
        "from lora_factory_airflow.web import app\n"
        "before = sorted({'fastapi', 'redis', 'jinja2', 'airflow'} & set(sys.modules))\n"
        "asyncio.run(app.crawls_page())\n"
        "import lora_factory.crawl.status\n"
        "heavy = {'torch', 'transformers', 'scrapy', 'twisted', 'sentence_transformers'}\n"
        "print(before, sorted(heavy & set(sys.modules)))\n"
    )
    paths = os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.stdout.splitlines()[-1] == "[] []"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")]
)
def test_span(seconds: float, words: str) -> None:
    assert app.span(seconds) == words
