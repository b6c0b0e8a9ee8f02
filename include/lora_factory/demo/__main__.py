"""``python -m lora_factory.demo``: topic → deployed LoRA on a bare machine, with nobody helping.

Starts a whole deployment on loopback, triggers the DAG through the REST API, shows its
progress, and ends with scores, pictures and addresses. ``--keep`` leaves it up, ``--stop``
stops a kept one, ``--images FOLDER`` uses a person's own images instead of the crawl.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_factory.contracts.settings import Settings
from lora_factory.demo.deployment import ROOT, USER, Deployment
from lora_factory.demo.memory import PeakMemory
from lora_factory.demo.summary import collect, generate_one, show, write
from lora_factory.demo.watch import Watcher, say
from lora_factory.errors import FactoryError, SpecError

DAG = "lora_factory"
BUILD = ROOT / "build"
TOPICS = ["icons of animals, food and objects", "icons of tools, vehicles and weather"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the run succeeded."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if args.stop:
            deployment = Deployment(BUILD / "demo")
            deployment.postgres.__enter__()
            deployment.stop()
            return 0
        return _demo(args)
    except FactoryError as err:
        sys.stderr.write(f"{type(err).__name__}: {err}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; everything was stopped\n")
        return 130


def _demo(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    images: Path | None = args.images
    if images is not None and not images.is_dir():
        msg = f"{images} is no folder; give the folder that holds your images"
        raise SpecError(msg)
    deployment = Deployment(BUILD / "demo", {"images": images} if images else None)
    done = False
    memory = PeakMemory()
    try:
        with memory:
            say("starting PostgreSQL, Airflow, the serving app and the gallery …")
            deployment.start()
            ready = time.monotonic() - begun
            say(f"Airflow is up after {ready:.0f} s: {deployment.api_url}")
            summary = _run(deployment, images, args.topic or default_topics(images))
        summary["seconds"] |= {
            "set_up": _set_up_seconds(),
            "start_up": round(ready, 1),
            "healthy_to_result": round(time.monotonic() - begun - ready, 1),
        }
        summary["peak_memory_gb"] = round(memory.peak / 1e9, 2)
        summary["summary"] = str(BUILD / "demo.json")
        write(summary, BUILD / "demo.json")
        show(summary)
        done = True
        return 0 if summary["state"] == "success" else 1
    finally:
        if args.keep and done:
            deployment.leave()
            say("left up; `make demo-stop` stops it")
        else:
            deployment.stop()
            say("stopped what was started; `make demo KEEP=1` leaves it up")


def _run(deployment: Deployment, images: Path | None, topics: list[str]) -> dict[str, Any]:
    conf: dict[str, Any] = {"topics": topics, "name": "demo-icons"}
    if images is None:
        conf |= {"source": "web", "seeds": [deployment.site_url + "/"], "max_pages": 60}
    else:
        conf |= {"source": "folder", "folder": "images"}
    run_id = f"demo__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    deployment.api.trigger(DAG, run_id, conf)
    say(f"triggered {DAG} through the REST API, run {run_id}")
    Watcher(deployment.api, DAG, run_id).follow()
    settings = Settings.from_environment(deployment.environment("", ""))
    out = BUILD / "demo-result"
    summary = collect(deployment.api, DAG, run_id, settings, out)
    if "endpoint" in summary:
        generate_one(summary, out)
    summary["airflow"] = {
        "url": deployment.api_url,
        "user": USER,
        "password": deployment.password,
    }
    return summary


def default_topics(images: Path | None) -> list[str]:
    """What the run is about where nobody said: the gallery's topics, or the folder's name."""
    if images is None:
        return TOPICS
    words = re.sub(r"[\W_]+", " ", images.resolve().name).strip()
    return [words[:80].strip() or "images"]


def _set_up_seconds() -> float | None:
    """What `make setup` took, as it wrote it down: ``set up in N s``."""
    try:
        return float((BUILD / "setup.txt").read_text().split()[-2])
    except (OSError, ValueError, IndexError):
        return None


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lora_factory.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the deployment up")
    parser.add_argument("--stop", action="store_true", help="stop a kept deployment")
    parser.add_argument("--images", type=Path, help="a folder of images (captions in .txt)")
    parser.add_argument("--topic", action="append", help="what the images show; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
