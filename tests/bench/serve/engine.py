"""The engine on the embedded base: batches of several LoRAs, its own cost, swapping adapters.

serve.mixed_vs_single_adapter: images/s of 8 requests on 8 LoRAs (rank 16, attention and
convolutions) over those of 8 requests on one of them; in turns, the fastest of each. Against:
plain diffusers with peft, which can only give one LoRA to a batch.
serve.overhead_vs_bare: time of one picture through queue and worker over a bare pipeline's; the
guards apart, whose share is printed.
serve.swap_p99_ms, serve.swap_drift_200: 200 LoRAs one after the other, none kept; the 99th
percentile of a swap (hash, read, check, attach, drop), and the larger growth, last fifty over
first fifty, of a picture's time and of memory.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]

from diffusers import StableDiffusionPipeline  # noqa: E402

from lora_factory.contracts.settings import Settings as Deployment  # noqa: E402
from lora_factory.diffusion.bank import Worn  # noqa: E402
from lora_factory.diffusion.base import GenerationRequest  # noqa: E402
from lora_factory.diffusion.families import load_base  # noqa: E402
from lora_factory.guard.content import Verdict  # noqa: E402
from lora_factory.guard.images import Finding  # noqa: E402
from lora_factory.models.profiles import ASSETS, load_profile  # noqa: E402
from lora_factory.serve.engine import (  # noqa: E402
    AdapterFile,
    Engine,
    Limits,
    Settings,
    file_sha256,
)
from lora_factory.serve.guards import Guards, load_guards  # noqa: E402

THREADS, BATCH, STEPS, GUIDANCE, RANK, TRIES, SWAPS = 1, 8, 20, 4.0, 16, 7, 200
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")


class Nothing:
    """In the guards' place: lets everything through."""

    def check(self, things: Sequence[Any]) -> list[Any]:
        if things and isinstance(things[0], str):
            return [Verdict(True, "") for _ in things]
        return [Finding(True, "", 0.0, "") for _ in things]


def figure(value: float, goal: float, better: str, unit: str, against: str) -> dict[str, object]:
    return {
        "value": round(value, 4),
        "unit": unit,
        "goal": goal,
        "better": better,
        "against": against,
        "command": "make bench ONLY=serve",
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The smallest of some tries of each, one after the other: other work hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(TRIES + 1):
        for name, work in works.items():
            took = seconds(work)
            if number:  # the first warms up
                times[name].append(took)
    return {name: min(found) for name, found in times.items()}


def files(base: Any, folder: Path, count: int) -> list[AdapterFile]:
    """LoRA files of random weights."""
    weights = base.add_adapter("made", RANK, RANK, TARGETS, seed=0)
    made = []
    for number in range(count):
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in weights:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=noise))
        path = folder / f"{number}.safetensors"
        base.save_adapter("made", path, {})
        made.append(AdapterFile(path, file_sha256(path)))
    base.drop_adapter("made")
    return made


def mixed(base: Any, loras: list[AdapterFile]) -> dict[str, object]:
    requests = [GenerationRequest("a red apple", seed) for seed in range(BATCH)]
    how = {"steps": STEPS, "guidance": GUIDANCE, "batch_size": BATCH}
    for lora in loras:
        base.load_adapter(lora.sha256, lora.path)
    one = [Worn(loras[0].sha256)] * BATCH
    all_ = [Worn(lora.sha256) for lora in loras]
    peft = StableDiffusionPipeline.from_pretrained(ASSETS / "emoji-base", safety_checker=None)
    peft.set_progress_bar_config(disable=True)
    peft.load_lora_weights(loras[0].path.parent, weight_name=loras[0].path.name)

    def plain() -> None:
        noise = [torch.Generator().manual_seed(seed) for seed in range(BATCH)]
        prompts = [request.prompt for request in requests]
        peft(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=noise,
            height=64,
            width=64,
        )

    def one_by_one() -> None:
        for request, worn in zip(requests, all_, strict=True):
            base.generate([request], **how, adapters=[worn])

    took = in_turns({
        "single": lambda: base.generate(requests, **how, adapters=one),
        "mixed": lambda: base.generate(requests, **how, adapters=all_),
        "peft": plain,
        "one by one": one_by_one,
    })
    for lora in loras:
        base.drop_adapter(lora.sha256)
    against = (
        f"{BATCH / took['mixed']:.1f} images/s mixed, {BATCH / took['single']:.1f} on one LoRA, "
        f"{BATCH / took['peft']:.1f} plain diffusers and peft on one LoRA, "
        f"{BATCH / took['one by one']:.1f} mixed but one by one"
    )
    return figure(took["single"] / took["mixed"], 0.9, "higher", "ratio", against)


def overhead(base: Any, guards: Any, real: Any) -> dict[str, object]:
    request = GenerationRequest("a red apple", 1)
    settings = Settings(None, STEPS, GUIDANCE)
    engines = {}
    for name, guard in (("engine", guards), ("with guards", real)):
        engines[name] = Engine(lambda: base, lambda guard=guard: guard)  # type: ignore[misc]
        engines[name].start()
        engines[name]._ready.wait(60)
    pipeline = StableDiffusionPipeline.from_pretrained(base.entry.location(), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def bare() -> None:
        pipeline(
            request.prompt,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(1),
            height=64,
            width=64,
        )

    took = in_turns({
        "bare": bare,
        "engine": lambda: draw(engines["engine"], request, settings),
        "with guards": lambda: draw(engines["with guards"], request, settings),
    })
    for engine in engines.values():
        engine.stop()
    against = ", ".join(f"{name} {1000 * found:.0f} ms" for name, found in took.items())
    return figure(took["engine"] / took["bare"] - 1, 0.05, "lower", "share", against)


def draw(engine: Engine, request: GenerationRequest, settings: Settings) -> Any:
    return engine.draw(request, settings).future.result()


def swaps(base: Any, guards: Any, loras: list[AdapterFile]) -> dict[str, dict[str, object]]:
    engine = Engine(lambda: base, lambda: guards, Limits(adapter_bytes=0))
    engine.start()
    engine._ready.wait(60)
    swapped: list[float] = []
    load = engine._worn

    def timed(*args: Any) -> Any:
        started = time.perf_counter()
        worn = load(*args)
        swapped.append(time.perf_counter() - started)
        return worn

    engine._worn = timed  # type: ignore[method-assign]
    drawn, memory = [], []
    request = GenerationRequest("a red apple", 1)
    for number in range(SWAPS):
        settings = Settings(loras[number % len(loras)], 4, GUIDANCE)
        drawn.append(seconds(functools.partial(draw, engine, request, settings)))
        memory.append(psutil.Process().memory_info().rss / 2**20)
    assert engine.swaps == SWAPS
    engine.stop()
    late = statistics.median(drawn[-50:]) / statistics.median(drawn[:50])
    grown = max(memory[-50:]) / max(memory[:50])
    p99 = 1000 * float(np.quantile(swapped, 0.99))
    median = 1000 * statistics.median(swapped)
    drift = f"a picture's time × {late:.3f}, memory × {grown:.3f} ({max(memory[-50:]):.0f} MiB)"
    return {
        "serve.swap_p99_ms": figure(p99, 50, "lower", "ms", f"median {median:.1f} ms"),
        "serve.swap_drift_200": figure(max(late, grown), 1.1, "lower", "ratio", drift),
    }


def main() -> None:
    torch.set_num_threads(THREADS)
    profile = load_profile("embedded", Deployment(threads=THREADS))
    base: Any = load_base(profile.base(None, "art"))
    nothing: Any = Guards(Nothing(), Nothing())  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        loras = files(base, Path(folder), BATCH)
        found = {"serve.mixed_vs_single_adapter": mixed(base, loras)}
        real = load_guards(profile, Deployment(threads=THREADS))
        found["serve.overhead_vs_bare"] = overhead(base, nothing, real)
        found |= swaps(base, nothing, loras)
    for key, value in found.items():
        sys.stdout.write(json.dumps({key: value}) + "\n")


if __name__ == "__main__":
    main()
