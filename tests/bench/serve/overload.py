"""Four times more requests than the serving app can draw, for two minutes, then SIGTERM.

serve.overload_lost: requests without an answer, or without a picture though accepted, over the
load and over the end. serve.overload_5xx: answers of 500 and more but for those that a stopping
app gives. Against: capacity, how many were drawn and refused, the 99th percentile of those drawn
beside the time that a full queue takes, memory at the end over memory at the start.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]

from lora_factory.demo.postgres import EmbeddedPostgres  # noqa: E402
from lora_factory.serve.engine import Limits  # noqa: E402
from lora_factory.store.catalog import Catalog  # noqa: E402

SECONDS = float(os.environ.get("SECONDS", "120"))
WARM, TIMES, STEPS = 10.0, 4, 4


@dataclass
class Seen:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    took: list[float] = field(default_factory=list)
    no_hint: int = 0
    """429 or 503 without Retry-After."""


async def ask(client: httpx.AsyncClient, seen: Seen) -> None:
    started = time.monotonic()
    body = {"prompt": "a red apple", "seed": secrets.randbelow(2**31), "steps": STEPS}
    try:
        answer = await client.post("/v1/generate", json=body)
    except httpx.ConnectError:
        return  # the app has gone: it took nothing
    except httpx.HTTPError as err:
        sys.stderr.write(f"lost: {err!r}\n")
        seen.lost += 1
        return
    seen.statuses[answer.status_code] += 1
    if answer.status_code == 200:
        seen.took.append(time.monotonic() - started)
        seen.lost += not answer.json()["image"]
    elif answer.status_code in {429, 503}:
        seen.no_hint += "retry-after" not in answer.headers


async def capacity(client: httpx.AsyncClient) -> float:
    """Pictures a second when two batches' worth of clients ask again as soon as they are served."""
    seen, until = Seen(), time.monotonic() + WARM

    async def again() -> None:
        while time.monotonic() < until:
            await ask(client, seen)

    await asyncio.gather(*(again() for _ in range(2 * Limits().batch)))
    return seen.statuses[200] / WARM


async def load(client: httpx.AsyncClient, rate: float, seen: Seen, seconds: float) -> None:
    """Requests at a steady rate, whether or not earlier ones have been answered."""
    tasks, started = [], time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        while len(tasks) < now * rate:
            tasks.append(asyncio.create_task(ask(client, seen)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)


async def measure(url: str, key: str, process: subprocess.Popen[bytes]) -> dict[str, object]:
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=0)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=120, limits=limits
    ) as client:
        able = await capacity(client)
        app, seen = psutil.Process(process.pid), Seen()
        before = app.memory_info().rss
        await load(client, TIMES * able, seen, SECONDS)
        grown = app.memory_info().rss / before
        # Once more, and the app is told to stop in the middle of it.
        end = Seen()
        ending = asyncio.create_task(load(client, TIMES * able, end, 4))
        await asyncio.sleep(2)
        process.send_signal(signal.SIGTERM)
        await ending
    assert process.wait(120) == 0
    size = Limits()
    bound = (size.queue + 2 * size.batch) / able
    p99 = float(np.quantile(seen.took, 0.99))
    told = {status: seen.statuses[status] for status in sorted(seen.statuses)}
    against = (
        f"{able:.1f} pictures/s alone, {TIMES * able:.0f} requests/s for {SECONDS:.0f} s: "
        f"{told}, without Retry-After {seen.no_hint}; p99 of the drawn {p99:.1f} s, a full queue "
        f"takes {bound:.1f} s; memory × {grown:.3f}; at SIGTERM {dict(end.statuses)}"
    )
    five = sum(n for status, n in seen.statuses.items() if status >= 500)
    five += sum(n for status, n in end.statuses.items() if status >= 500 and status != 503)
    return {
        "serve.overload_lost": figure(seen.lost + end.lost, "requests", against),
        "serve.overload_5xx": figure(five, "answers", "see serve.overload_lost"),
    }


def figure(value: float, unit: str, against: str) -> dict[str, object]:
    return {
        "value": value,
        "unit": unit,
        "goal": 0,
        "better": "lower",
        "against": against,
        "command": "make bench ONLY=serve",
    }


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="lora_factory_bench_") as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        dsn = postgres.dsn("overload")
        Catalog(dsn).migrate()
        key, _ = Catalog(dsn).add_api_key("bench", ["generate"], 100_000)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-m", "lora_factory.serve", "--port", port]
        environ = {"LORA_FACTORY_CATALOG": dsn, "LORA_FACTORY_THREADS": "1"}
        process = subprocess.Popen(
            [*command, "--data", f"{folder}/data"],
            env={**os.environ, **environ, "PYTHONPATH": str(ROOT / "include")},
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            while not ready(url):
                assert process.poll() is None, "the serving app did not start"
                time.sleep(0.2)
            found = asyncio.run(measure(url, key, process))
        finally:
            process.kill()
            process.wait()
    for name, value in found.items():
        sys.stdout.write(json.dumps({name: value}) + "\n")


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
