"""sanitize.memory_growth: peak memory of the whole stage on ten times the pictures.

Each size is a process of its own through the runner, with the embedded models, on made icons;
shards hold 500 pictures. What counts is anonymous memory (``RssAnon``), looked at every 50 ms:
pages of mapped files can be taken back at any time. ``SANITIZE_SIZES=5000,50000`` are the sizes of
the goal and take over an hour on two cores; without it 400 and 4,000 are compared. Standard error
has both peaks and the rate.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]
SIZES = tuple(int(size) for size in os.environ.get("SANITIZE_SIZES", "400,4000").split(","))
SHARD = 500


def icons(folder: Path, count: int) -> None:
    """A raw artifact of ``count`` pictures of coloured discs and bars, no two alike."""
    import numpy as np
    from PIL import Image, ImageDraw

    from lora_factory.contracts.records import RawRecord, write_jsonl

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(count):
        image = Image.new("RGB", (64, 64), tuple(rng.integers(120, 256, 3).tolist()))
        draw = ImageDraw.Draw(image)
        for _ in range(6):
            x, y, w, h = rng.integers(0, 44, 4).tolist()
            colour = tuple(rng.integers(0, 256, 3).tolist())
            (draw.ellipse if w % 2 else draw.rectangle)((x, y, x + 8 + w, y + 8 + h), fill=colour)
        out = io.BytesIO()
        image.save(out, "PNG")
        sha256 = hashlib.sha256(out.getvalue()).hexdigest()
        (folder / "images" / f"{sha256}.png").write_bytes(out.getvalue())
        records.append(
            RawRecord(
                sha256=sha256,
                file_name=f"images/{sha256}.png",
                url=f"https://example.org/{number}.png",
                alt=f"shape number {number} in several colours",
                licence="own",
                width=64,
                height=64,
            )
        )
    write_jsonl(folder / "records.jsonl", records)


def anonymous() -> int:
    """This process's anonymous memory, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def child(count: int) -> None:
    """Sanitize ``count`` pictures; prints seconds and the peak in KiB."""
    from lora_factory.contracts.manifest import Manifest
    from lora_factory.contracts.settings import Settings
    from lora_factory.runner import run_stage
    from lora_factory.store.artifacts import open_store

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        icons(folder / "raw", count)
        settings = Settings(
            store=(folder / "store").as_uri(), scratch=folder / "scratch", min_images=4, threads=1
        )
        draft = Manifest(
            kind="raw",
            stage="crawl",
            stage_version=1,
            key="0" * 24,
            attempt="a",
            spec={},
            code_version="bench",
            created_at=datetime.now(UTC),
        )
        raw = open_store(settings).commit(folder / "raw", draft)
        peak, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        run_stage("sanitize", {"raw": raw, "shard_images": SHARD}, settings)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        sys.stdout.write(f"{seconds} {peak[0]}\n")


def main() -> None:
    if len(sys.argv) > 1:
        child(int(sys.argv[1]))
        return
    peaks = []
    for count in SIZES:
        command = [sys.executable, __file__, str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds, peak = map(float, done.stdout.split()[-2:])
        peaks.append(peak)
        sys.stderr.write(
            f"{count} pictures: peak {peak / 1024:.0f} MiB anonymous, {count / seconds:.0f}/s\n"
        )
    line = {
        "sanitize.memory_growth": {
            "value": round(peaks[-1] / peaks[0], 3),
            "unit": "ratio",
            "goal": 1.15,
            "better": "lower",
            "against": f"{SIZES[-1]} pictures over {SIZES[0]}, shards of {SHARD}",
            "command": "python tests/bench/run.py --only sanitize",
        }
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
