"""Web servers to visit, and crawls in children of their own.

A child runs ``python -m lora_factory crawl``. It is forked from a process that has imported
torch and transformers, so each has a fresh reactor and the imports are paid once a session.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl

Answer = tuple[int, dict[str, str], bytes]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sentence_transformers", "trafilatura", "PIL.Image", "pydantic"])


def _child(
    arguments: list[str], environment: dict[str, str], log: str, names: dict[str, str]
) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.update(environment)
    _answer(names)  # before Twisted takes its copy
    from lora_factory.__main__ import main

    sys.exit(main(arguments))


def _answer(names: dict[str, str]) -> None:
    """Let this process's resolver know names that no name server here does."""
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        return real(names.get(host, host), *rest, **more)

    socket.getaddrinfo = look_up


@dataclass
class Crawl:
    """One crawl: what went in, and what came out."""

    folder: Path
    spec: dict[str, Any]
    environment: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    """What name servers would answer: name → address."""
    process: ForkServerProcess | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def start(self) -> Crawl:
        """Start it; the store and the scratch folder stay the same if it is started again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        spec, report = self.folder / "spec.json", self.folder / "report.json"
        spec.write_text(json.dumps({"as_of": "2026-11-24", **self.spec}), encoding="utf-8")
        environment = {
            "LORA_FACTORY_STORE": (self.folder / "store").as_uri(),
            "LORA_FACTORY_SCRATCH": str(self.folder / "scratch"),
            "LORA_FACTORY_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **self.environment,
        }
        arguments = ["crawl", "--spec", str(spec), "--report", str(report)]
        log = str(self.folder / "log.txt")
        self.process = CONTEXT.Process(
            target=_child, args=(arguments, environment, log, self.names)
        )
        self.process.start()
        return self

    def wait(self, seconds: float = 90.0) -> Crawl:
        """Wait for its end and read the report."""
        assert self.process is not None
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            pytest.fail(f"still running after {seconds} s:\n{self.log}")
        self.report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return self

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    @property
    def error(self) -> dict[str, Any]:
        """Type and message of the error it ended with."""
        assert "error" in self.report, self.report
        error: dict[str, Any] = self.report["error"]
        return error

    @property
    def artifact(self) -> Path:
        """Folder of the committed artifact."""
        assert "error" not in self.report, f"{self.report}\n{self.log}"
        manifests = list((self.folder / "store").rglob("manifest.json"))
        assert len(manifests) == 1
        return next((self.folder / "store").rglob("records.jsonl")).parent

    @property
    def manifest(self) -> dict[str, Any]:
        """The artifact's manifest."""
        path = next((self.folder / "store").rglob("manifest.json"))
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest

    @property
    def records(self) -> list[RawRecord]:
        """Images kept."""
        return list(read_jsonl(self.artifact / "records.jsonl", RawRecord))

    @property
    def audit(self) -> list[AuditRecord]:
        """Verdicts."""
        return list(read_jsonl(self.artifact / "audit.jsonl", AuditRecord))

    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """(page or image, URL) → reasons of the drops and "" for keeps, in order."""
        found: dict[tuple[str, str], list[str]] = {}
        for entry in self.audit:
            found.setdefault((entry.what, entry.item), []).append(entry.reason)
        return found


@dataclass
class WebServer:
    """Answers from ``answers`` (path → status, headers, body), 404 elsewhere."""

    answers: dict[str, Answer | Callable[[], Answer]] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    """Of the hits, those that were answered 304: ETag and Last-Modified are honoured."""
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    def html(self, path: str, body: str, **headers: str) -> None:
        """Add a page."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (200, {"Content-Type": "text/html", **named}, body.encode())
