"""sanitize.dedup_*: near-duplicates among a million vectors, against planted pairs and the
article's loop.

The vectors are made: topics of uneven size on axes of falling variance, as sentence embeddings
lie, and one in twenty a copy of another at a cosine of 0.85 to 0.99, spread evenly. The article's
loop takes minutes at 50,000, so it is timed at 3,000 and extrapolated by the square of the count;
of several rounds the quickest counts, of its as of ours.
Standard error has every size, trees, estimated recall and peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # trees grow side by side; each is one thread's

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]

from lora_factory.imaging.neighbours import Neighbours, neighbours, radius_of  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 384
COSINE = 0.85  # article
SIZES = (100_000, 300_000, 1_000_000)
LOOP, COMPARED = 3000, 50_000
THREADS = int(os.environ.get("LORA_FACTORY_THREADS", "2"))
GOAL_SECONDS = 180


def topics(
    count: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """count×384 unit rows, and the pairs that were planted: original and copy."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    scale /= np.linalg.norm(scale)
    middles = rng.standard_normal((max(64, count // 500), WIDTH), dtype=np.float32) * scale
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    sizes = rng.zipf(1.5, len(middles)).clip(1, 200).astype(float)
    copied = count // 20
    whole = count - copied
    topic = rng.choice(len(middles), whole, p=sizes / sizes.sum())
    rows = np.empty((count, WIDTH), dtype=np.float32)
    for start in range(0, whole, 1 << 16):
        part = slice(start, min(whole, start + (1 << 16)))
        shape = (part.stop - part.start, WIDTH)
        rows[part] = 0.76 * middles[topic[part]]
        rows[part] += 0.5 * scale * rng.standard_normal(shape, dtype=np.float32)
        rows[part] += 0.7 / np.sqrt(WIDTH) * rng.standard_normal(shape, dtype=np.float32)
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    first = rng.choice(whole, copied, replace=False)
    cosine = rng.uniform(COSINE, 0.99, (copied, 1)).astype(np.float32)
    noise = rng.standard_normal((copied, WIDTH), dtype=np.float32)
    noise -= np.sum(noise * rows[first], axis=1, keepdims=True) * rows[first]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    rows[whole:] = cosine * rows[first] + np.sqrt(1 - cosine**2) * noise
    return rows, first, np.arange(whole, count)


def run(count: int) -> tuple[float, float, float, Neighbours]:
    """Seconds, recall, precision and what was found."""
    rows, first, second = topics(count)
    started = time.perf_counter()
    found = neighbours(rows, radius_of(COSINE), threads=THREADS)
    seconds = time.perf_counter() - started
    close = np.sum(rows[first] * rows[second], axis=1) >= COSINE
    keys = second[close] * count + first[close]
    recall = float(np.isin(keys, found.second * count + found.first).mean())
    exact = np.sum(rows[found.first].astype(np.float64) * rows[found.second], axis=1)
    precision = float((exact >= COSINE - 1e-5).mean())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stderr.write(
        f"{count}: {seconds:.1f} s on {THREADS} threads, {found.trees} trees, recall {recall:.4f} "
        f"(estimated {found.recall:.4f}), precision {precision:.4f}, peak {peak:.2f} GB with the "
        f"vectors\n"
    )
    return seconds, recall, precision, found


def article(rows: NDArray[np.float32], threshold: float) -> list[int]:
    """``filter_by_semantic_similarity`` as the article prints it, embeddings given."""
    similarity_matrix = np.inner(rows, rows)
    unique_indices: list[int] = []
    for i in range(len(rows)):
        if all(similarity_matrix[i, j] < threshold for j in unique_indices):
            unique_indices.append(i)
    return unique_indices


def timed_article(rows: NDArray[np.float32]) -> float:
    """Seconds."""
    started = time.perf_counter()
    article(rows, COSINE)
    return time.perf_counter() - started


def main() -> None:
    rows, _, _ = topics(LOOP)
    loop = min(timed_article(rows) for _ in range(3)) * (COMPARED / LOOP) ** 2
    ours = min(run(COMPARED)[0] for _ in range(5))
    sys.stderr.write(f"article's loop at {COMPARED}: {loop:.0f} s, extrapolated from {LOOP}\n")
    timed = {count: run(count) for count in SIZES}
    seconds, _, precision, _ = timed[SIZES[-1]]
    logs = np.log([[count, each[0]] for count, each in timed.items()])
    growth = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    planted = "planted pairs at cosine 0.85 to 0.99"
    figures = (
        ("dedup_1m_seconds", seconds, "s", GOAL_SECONDS, "lower", "goal: 3 min on 2 cores"),
        ("dedup_recall", min(each[1] for each in timed.values()), "share", 0.99, "higher", planted),
        ("dedup_precision", precision, "share", 0.99, "higher", "cosines in float64"),
        ("dedup_vs_seed_loop_50k", loop / ours, "ratio", 1000, "higher", "the article's loop"),
        ("dedup_growth_exponent", growth, "exponent", 1.2, "lower", "100k, 300k and 1M vectors"),
    )
    for key, value, unit, goal, better, against in figures:
        line = {
            f"sanitize.{key}": {
                "value": round(value, 4),
                "unit": unit,
                "goal": goal,
                "better": better,
                "against": against,
                "command": "python tests/bench/run.py --only sanitize",
            }
        }
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
