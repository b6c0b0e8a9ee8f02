"""A server that stops answering: what status says of it, what the crawl does, and how it ends."""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import pytest
from crawl_rig import CONTEXT
from hostile_site import LICENCE, PROSE, anchors, picture
from test_crawl_workers import Factory, child

from lora_factory.commands import crawl_status
from lora_factory.crawl import status
from lora_factory.demo.site import GallerySite
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
SOON = 3.0  # seconds, where a deployment has 180


def worker(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """A worker that looks at the whole crawl more often."""
    status.STALLED, status.LOOK = SOON, 0.5
    child(arguments, environment, log)


class SilentSite(GallerySite):
    """Answers its first page, then nothing until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        gate = self.gate
        links = anchors(*(f"/silent/{n}" for n in range(6)))
        first = (
            f"<html><title>Icons of animals, food and objects</title><p>{PROSE}</p>"
            f"<img src=/a.png>{links}{LICENCE}"
        ).encode()
        handler = self._server.RequestHandlerClass

        class Silent(handler):  # type: ignore[misc, valid-type]
            def do_GET(self) -> None:  # noqa: N802 - its name in the base class
                if self.path.startswith("/silent/"):
                    gate.wait(60)
                kind, body = {
                    "/start": ("text/html", first),
                    "/a.png": ("image/png", picture(1)),
                }.get(self.path, ("text/plain", b""))
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server.RequestHandlerClass = Silent
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign]


def shown(factory: Factory, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """Exit status and output of the status command."""
    parser = argparse.ArgumentParser()
    crawl_status.arguments(parser)
    code = crawl_status.run(parser.parse_args(list(more)), factory.settings)
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_a_server_that_stops_answering_is_seen_and_outlived(
    tmp_path: Path,
    valkey: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(status, "STALLED", SOON)
    with SilentSite() as site:
        environment = {
            "LORA_FACTORY_STORE": (tmp_path / "store").as_uri(),
            "LORA_FACTORY_SCRATCH": str(tmp_path / "scratch"),
            "LORA_FACTORY_THREADS": "1",
            "LORA_FACTORY_CRAWL_HOSTS": site.host,
            "LORA_FACTORY_CRAWL_PUBLIC": "false",
            "LORA_FACTORY_CRAWL_REDIS": valkey.url,
            "LORA_FACTORY_CRAWL_TIMEOUT": "3",
            "HF_HUB_OFFLINE": "1",
        }
        factory = Factory(tmp_path, environment)
        spec = {
            "topics": ["icons of animals, food and objects"], "as_of": "2026-11-24",
            "seeds": [f"http://{site.host}/start"],
        }  # fmt: skip
        plan = factory.run("crawl.plan", {**spec, "workers": 2})
        work = {**spec, "plan": plan["manifest_uri"], "worker": 1}
        (tmp_path / "work.json").write_text(json.dumps(work), encoding="utf-8")
        log = tmp_path / "log.txt"
        arguments = ["crawl.work", "--spec", str(tmp_path / "work.json")]
        arguments += ["--report", str(tmp_path / "report")]
        process = CONTEXT.Process(target=worker, args=(arguments, environment, str(log)))
        process.start()
        code, text, deadline = 0, "", time.monotonic() + 60
        while not code:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
            code, text = shown(factory, capsys)
        assert " stalled\n" in text
        assert "1 of 2 alive" in text  # the worker lives: it is the site that doesn't
        (seen,) = (json.loads(row) for row in shown(factory, capsys, "--json")[1].splitlines())
        assert seen["state"] == "stalled"
        assert seen["frontier"]["pages"]["in_flight"] > 0
        # Each page is tried three times and then dropped; what else there is goes on, to the end.
        process.join(90)
        assert process.exitcode == 0, log.read_text()
        done = json.loads((tmp_path / "report").read_text())
        assert "error" not in done, done
        merged = factory.run("crawl", {**spec, "plan": plan["manifest_uri"]})
        site.gate.set()
    assert "the crawl stalls: no server has answered for" in log.read_text()
    stats = factory.manifest(merged)["stats"]
    assert stats["pages_dropped"] == {"timeout": 6}
    assert stats["counts"]["kept"] == 1
