"""A small child that does what its spec's ``play`` says; stands in for ``-m lora_factory``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

RESULT = {"manifest_uri": "file:///s/raw/k/manifest.json", "sha256": "0" * 64, "counts": {}}


def main() -> int:
    spec_file = Path(sys.argv[sys.argv.index("--spec") + 1])
    report = Path(sys.argv[sys.argv.index("--report") + 1])
    spec = json.loads(spec_file.read_text())
    mode = oct(spec_file.stat().st_mode & 0o777)
    say(f"INFO lora_factory.small: pid {os.getpid()} group {os.getpgid(0)} mode {mode}")
    return int(globals()[spec["play"]](spec, report) or 0)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def succeed(spec: dict[str, object], report: Path) -> None:
    say("WARNING lora_factory.small.part: äöü: a: b")
    say("DEBUG lora_factory.small: hidden")
    say("Traceback (most recent call last):")
    sys.stdout.write("from stdout\n")
    report.write_text(json.dumps(RESULT))


def environment(spec: dict[str, object], report: Path) -> None:
    Path(str(spec["out"])).write_text(json.dumps(dict(os.environ)))
    report.write_text(json.dumps(RESULT))


def error(spec: dict[str, object], report: Path) -> int:
    report.write_text(json.dumps({"error": spec["error"]}))
    return 75


def crash(spec: dict[str, object], report: Path) -> None:
    report.write_text('{"half": ')
    msg = "boom"
    raise RuntimeError(msg)


def killed(spec: dict[str, object], report: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def checkpoint(spec: dict[str, object], report: Path) -> int:
    """Stops politely, as the runner does, half a second after SIGTERM."""
    asked: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
    Path(str(spec["out"])).write_text(str(os.getpid()))
    while not asked:
        time.sleep(0.02)
    time.sleep(0.5)
    Path(str(spec["out"])).write_text(f"checkpoint after {len(asked)} SIGTERM")
    error_ = {"type": "Interrupted", "message": "asked to stop", "transient": True}
    report.write_text(json.dumps({"error": error_}))
    return 75


def stubborn(spec: dict[str, object], report: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(str(spec["out"])).write_text(str(os.getpid()))
    time.sleep(60)


def leave_grandchild(spec: dict[str, object], report: Path) -> None:
    """Ends at once, but a grandchild keeps the output pipe open."""
    if os.fork() == 0:
        Path(str(spec["out"])).write_text(str(os.getpid()))
        time.sleep(30)
        os._exit(0)
    report.write_text(json.dumps(RESULT))


if __name__ == "__main__":
    sys.exit(main())
