"""Two workers of one crawl in processes of their own, and what comes of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import redis
from crawl_rig import CONTEXT, Crawl

from lora_factory.commands import crawl_status
from lora_factory.contracts.crawl import CrawlStatus
from lora_factory.contracts.settings import Settings
from lora_factory.crawl.status import read_all
from lora_factory.demo.site import GallerySite
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration


def child(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """``python -m lora_factory``, forked from a process that has the imports."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.update(environment)
    from lora_factory.__main__ import main

    sys.exit(main(arguments))


@dataclass
class Factory:
    """A deployment whose stages run in children."""

    folder: Path
    environment: dict[str, str]
    running: list[tuple[ForkServerProcess, Path]] = field(default_factory=list)
    started: int = 0

    def start(self, stage: str, spec: dict[str, Any]) -> None:
        """Start a stage or a part of one."""
        self.started += 1
        place = self.folder / f"{self.started}-{stage}"
        place.mkdir()
        (place / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        arguments = [stage, "--spec", str(place / "spec.json"), "--report", str(place / "report")]
        process = CONTEXT.Process(
            target=child, args=(arguments, self.environment, str(place / "log.txt"))
        )
        process.start()
        self.running.append((process, place))

    def wait(self, seconds: float = 90) -> list[dict[str, Any]]:
        """Reports of all that was started since the last time."""
        reports = []
        for process, place in self.running:
            process.join(seconds)
            assert not process.is_alive(), (place / "log.txt").read_text()
            reports.append(json.loads((place / "report").read_text()))
        self.running.clear()
        return reports

    def run(self, stage: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Start a stage and wait for its report."""
        self.start(stage, spec)
        return self.wait()[0]

    @property
    def settings(self) -> Settings:
        """As the children see it."""
        return Settings.from_environment(self.environment)

    def manifest(self, report: dict[str, Any]) -> dict[str, Any]:
        """Of the artifact that a stage made."""
        assert "error" not in report, report
        path = Path(report["manifest_uri"].partition("#")[0].removeprefix("file://"))
        found: dict[str, Any] = json.loads(path.read_text())
        return found | {"folder": path.parent / found["attempt"]}


@dataclass
class Shared:
    """What a crawl of two workers left, and what was seen of it on the way."""

    factory: Factory
    spec: dict[str, Any]
    plan: dict[str, Any]
    parts: list[dict[str, Any]]
    late: dict[str, Any]
    late_seconds: float
    merged: dict[str, Any]
    seen: list[CrawlStatus]
    hits: list[str]


def look(factory: Factory, gate: threading.Event) -> list[CrawlStatus]:
    """The crawls' status while workers run; opens the gate when both are there."""
    seen = []
    while any(process.is_alive() for process, _ in factory.running):
        seen += asyncio.run(read_all(factory.settings))
        if seen and len(seen[-1].frontier.workers) == 2:
            gate.set()
        time.sleep(0.1)
    return seen


class GatedSite(GallerySite):
    """The gallery, silent until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        handler = self._server.RequestHandlerClass
        gate = self.gate

        class Waits(handler):  # type: ignore[misc, valid-type]
            def do_GET(self) -> None:  # noqa: N802 - its name in the base class
                gate.wait(60)
                super().do_GET()

        self._server.RequestHandlerClass = Waits


@pytest.fixture(scope="module")
def site() -> Iterator[GatedSite]:
    with GatedSite() as running:
        yield running


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server of this module's own: its crawls are told of all together."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer, site: GatedSite
) -> Shared:
    folder = tmp_path_factory.mktemp("workers")
    environment = {
        "LORA_FACTORY_STORE": (folder / "store").as_uri(),
        "LORA_FACTORY_SCRATCH": str(folder / "scratch"),
        "LORA_FACTORY_THREADS": "1",
        "LORA_FACTORY_CRAWL_HOSTS": site.host,
        "LORA_FACTORY_CRAWL_PUBLIC": "false",
        "LORA_FACTORY_CRAWL_REDIS": valkey.url,
        "LORA_FACTORY_CRAWL_TIMEOUT": "90",
        "HF_HUB_OFFLINE": "1",
    }
    factory = Factory(folder, environment)
    spec = {"topics": TOPICS, "seeds": [site.url], "as_of": "2026-11-24"}
    plan = factory.run("crawl.plan", {**spec, "workers": 2})
    assert "error" not in plan, plan
    work = {**spec, "plan": plan["manifest_uri"]}
    before = len(site.hits)
    for worker in (1, 2):
        factory.start("crawl.work", {**work, "worker": worker})
    seen = look(factory, site.gate)
    site.gate.set()
    parts = factory.wait()
    begun = time.monotonic()
    late = factory.run("crawl.work", {**work, "worker": 3})
    late_seconds = time.monotonic() - begun
    hits = site.hits[before:]
    merged = factory.run("crawl", work)
    return Shared(factory, work, plan, parts, late, late_seconds, merged, seen, hits)


TOPICS = ["icons of animals, food and objects", "icons of tools, vehicles and weather"]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def close(value: Any) -> Any:
    """Scores as near as they are: in which batch a page is scored moves their last digits.

    How long the knowledge graphs took is left out.
    """
    if isinstance(value, dict):
        return {name: close(part) for name, part in value.items() if name != "seconds"}
    if isinstance(value, list):
        return [close(part) for part in value]
    return pytest.approx(value, abs=2e-4) if isinstance(value, float) else value


def rows(data: bytes) -> list[Any]:
    """Records, in order."""
    return [close(json.loads(line)) for line in data.splitlines()]


def test_two_workers_bring_what_one_brings(
    shared: Shared, new_crawl: Callable[..., Crawl], site: GatedSite
) -> None:
    alone = new_crawl(hosts=[site.host], seeds=[site.url]).start().wait()
    merged = shared.factory.manifest(shared.merged)
    one, two = files(alone.artifact), files(merged["folder"])
    assert len(one) > 150
    assert sorted(two) == sorted(one)
    for name, data in one.items():
        if name != "records.jsonl":
            assert two[name] == data
    assert rows(two["records.jsonl"]) == rows(one["records.jsonl"])
    for part in ("stats", "counts"):
        assert close(merged[part]) == close(alone.manifest[part])
    assert [entry["name"] for entry in merged["inputs"]] == ["plan"]


def test_nothing_was_asked_for_twice(shared: Shared) -> None:
    reports = [shared.factory.manifest(part)["stats"] for part in shared.parts]
    assert len({report["worker"] for report in reports}) == 2
    # One host answers eight at a time: a quick worker may leave nothing to the other.
    done = sum(report["work"]["images"] for report in reports)
    assert done >= shared.factory.manifest(shared.merged)["counts"]["kept"]
    once_a_worker = {"/robots.txt", "/.well-known/tdmrep.json"}
    asked = [hit for hit in shared.hits if hit not in once_a_worker]
    assert len(asked) == len(set(asked))


def test_a_late_worker_returns_at_once(shared: Shared) -> None:
    stats = shared.factory.manifest(shared.late)["stats"]
    assert (stats["worker"], stats["work"]["pages"]) == ("", 0)
    log = (shared.factory.folder / "4-crawl.work" / "log.txt").read_text()
    assert "pages" not in log  # no line of progress: it never began


def test_the_crawl_could_be_watched(shared: Shared) -> None:
    assert {status.crawl for status in shared.seen} == {shared.factory.manifest(shared.plan)["key"]}
    most = max(shared.seen, key=lambda status: len(status.frontier.workers))
    assert len(most.frontier.workers) == 2
    assert any(status.frontier.hosts for status in shared.seen)
    assert any(status.frontier.pages.in_flight for status in shared.seen)
    done = [status.frontier.pages.done for status in shared.seen]
    assert done == sorted(done)
    assert all(status.frontier.pages.done <= status.max_pages for status in shared.seen)
    assert shared.seen[0].state in {"starting", "running"}
    assert shared.seen[-1].frontier.reasons["kept"] > 100


def test_nothing_is_left_once_it_is_an_artifact(shared: Shared, valkey: ValkeyServer) -> None:
    crawl = shared.factory.manifest(shared.plan)["key"]
    with redis.Redis.from_url(valkey.url) as client:
        assert [*client.scan_iter(f"lf:crawl:*{crawl}*")] == []
        assert not client.hexists("lf:crawls", crawl)
    assert not [*(shared.factory.folder / "store" / "work").rglob("*.jsonl")]
    assert shared.factory.run("crawl", shared.spec)["reused"]


def test_what_was_forgotten_is_not_made_of_nothing(shared: Shared) -> None:
    changed = {**shared.spec, "force": True}
    error = shared.factory.run("crawl", changed)["error"]
    assert error["type"] == "DataError"
    assert error["message"].endswith("brought is gone; run it again with force")


def test_a_plan_of_another_crawl_is_refused(shared: Shared) -> None:
    for stage, more in (("crawl", {}), ("crawl.work", {"worker": 1})):
        error = shared.factory.run(stage, {**shared.spec, **more, "max_pages": 7})["error"]
        assert error["type"] == "SpecError"
        assert "is not this crawl's (max_pages)" in error["message"]


def test_a_worker_without_a_redis_says_what_to_set(shared: Shared) -> None:
    factory = Factory(
        shared.factory.folder, shared.factory.environment | {"LORA_FACTORY_CRAWL_REDIS": ""}
    )
    error = factory.run("crawl.work", {**shared.spec, "worker": 7})["error"]
    assert (error["type"], error["transient"]) == ("ConfigurationError", False)
    assert "LORA_FACTORY_CRAWL_REDIS" in error["message"]


def test_the_command_ends_when_nothing_is_left_to_watch(
    shared: Shared, valkey: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    crawl_status.arguments(parser)
    settings = Settings.model_validate({"crawl_redis": valkey.url})
    assert crawl_status.run(parser.parse_args(["--watch", "0.1"]), settings) == 0
    assert capsys.readouterr().out == "no crawl is shared now\n"
