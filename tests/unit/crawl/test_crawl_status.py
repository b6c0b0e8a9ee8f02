"""What a frontier's figures mean, and how a person is told."""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from lora_factory.commands import crawl_status
from lora_factory.contracts.crawl import (
    CrawlStatus,
    FrontierStatus,
    HostStatus,
    QueueStatus,
    WorkerStatus,
)
from lora_factory.contracts.settings import Settings
from lora_factory.crawl.status import STALLED, Watch, line, seconds_left, state
from lora_factory.errors import ConfigurationError

ALIVE = WorkerStatus(worker="a:1", last_seen=1.0, rate=2.0, leases=3)
DEAD = WorkerStatus(worker="b:2", last_seen=99.0, stalled=True)


def frontier(**changes: Any) -> FrontierStatus:
    values = {
        "pages": QueueStatus(queued=20, in_flight=3, done=7, limit=100),
        "images": QueueStatus(queued=1, done=4, limit=50),
        "workers": (ALIVE,),
        "rate": 2.0,
        "reasons": {"kept": 7, "off_topic": 3},
        **changes,
    }
    return FrontierStatus(**values)


def status(**changes: Any) -> CrawlStatus:
    found = frontier(**changes)
    return CrawlStatus(
        crawl="c0ffee",
        topics=("blue cats",),
        source="web",
        workers=2,
        max_pages=100,
        max_images=50,
        started=datetime(2026, 11, 24, 12, tzinfo=UTC),
        state=state(found),
        seconds_left=seconds_left(found, 5.0),
        frontier=found,
    )


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "running"),
        ({"idle": STALLED + 1}, "stalled"),
        ({"idle": STALLED + 1, "pages": QueueStatus(queued=5, limit=9)}, "running"),  # polite
        ({"workers": (ALIVE, DEAD)}, "running"),
        ({"workers": (DEAD,)}, "deserted"),
        ({"workers": ()}, "deserted"),
        ({"workers": (DEAD,), "finished": True, "reasons": {"kept": 1}}, "finished"),
        ({"workers": (), "finished": True, "reasons": {}}, "starting"),
    ],
)
def test_state(changes: dict[str, Any], wanted: str) -> None:
    assert state(frontier(**changes)) == wanted


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 48.0),  # 20 pages queued, 3 leased, 1 image queued; 10 settled in 20 s
        ({"pages": QueueStatus(queued=500, done=90, limit=100)}, 22.0),  # the budget ends it
        ({"reasons": {}}, None),
        ({"finished": True}, 0.0),
        ({"finished": True, "reasons": {}}, None),  # not begun
    ],
)
def test_time_left(changes: dict[str, Any], seconds: float | None) -> None:
    assert seconds_left(frontier(**changes), 20.0) == seconds


def test_a_dead_worker_and_a_stall_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    found = status(workers=(ALIVE, DEAD), idle=STALLED + 1)
    watch = Watch(Settings(), found)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            watch.tell(found)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        "worker b:2 was not heard of for 99 s: dead; the tasks it held are handed out again",
        "the crawl stalls: no server has answered for 181 s",
    ]
    assert caplog.messages.count(line(found)) == 3
    caplog.clear()
    watch.tell(status())  # all is well again, and can go wrong again
    watch.tell(found)
    assert "the crawl stalls: no server has answered for 181 s" in caplog.messages


def test_one_line() -> None:
    assert line(status()) == (
        "crawl c0ffee running: pages 7/100 (20 queued), images 4/50 (1 queued), "
        "1 of 2 workers alive, 2.0 pages/s, 12 s left"
    )


def test_text_has_all_a_person_asks_for() -> None:
    hosts = tuple(HostStatus(host=f"h{n}.example", queued=30 - n) for n in range(20))
    reasons = {"kept": 9, "http_error": 2, "timeout": 12}
    text = "\n".join(
        crawl_status.describe(
            status(workers=(ALIVE, DEAD), hosts=hosts, hosts_total=40, reasons=reasons, dead=2)
        )
    )
    assert "7 of 100 done, 3 leased, 20 queued" in text
    assert "settled  timeout 12, kept 9, http_error 2; 2 given up" in text
    assert "workers  1 of 2 alive" in text
    assert "dead" in next(row for row in text.splitlines() if row.endswith("b:2"))
    assert "h14.example" in text
    assert "h15.example" not in text
    assert "… and 25 more" in text


def test_a_terminal_obeys_no_host_name() -> None:
    assert crawl_status.plain("\x1b[2Jh\x07.example\u202e") == "?[2Jh?.example?"


def test_without_a_redis_it_says_what_to_set() -> None:
    parser = argparse.ArgumentParser()
    crawl_status.arguments(parser)
    with pytest.raises(ConfigurationError, match="set LORA_FACTORY_CRAWL_REDIS"):
        crawl_status.run(parser.parse_args([]), Settings())
    for url in ("ftp://x", "nonsense"):
        bad = Settings.model_validate({"crawl_redis": url})
        with pytest.raises(ConfigurationError, match="is no redis:// URL"):
            crawl_status.run(parser.parse_args([]), bad)
