"""Seconds of an evaluation of 64 prompts on the embedded base, all cores.

Loading the models, 64 pairs, drift, the copying attack, timing, scores, bootstrap and report;
without the bias audit, the search for settings and the XYZ picture, which don't grow with the
prompts. The first run makes the base's pictures; the second, of another LoRA, finds them:
what a next attempt costs.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests" / "integration" / "evaluate")]

from evaluate_samples import lora_artifact, make_dataset, manifest, sabotage  # noqa: E402

from lora_factory.contracts.settings import Settings  # noqa: E402
from lora_factory.contracts.specs import EvaluateSpec  # noqa: E402
from lora_factory.contracts.stage import LocalArtifact, StageContext  # noqa: E402
from lora_factory.diffusion.families import load_base  # noqa: E402
from lora_factory.evaluate import stage  # noqa: E402
from lora_factory.models.profiles import load_profile  # noqa: E402

BESIDE = {"audit_pictures": 0, "settings_prompts": 0, "xyz_pictures": 0}
SPEC = EvaluateSpec.model_validate({"lora": "l", "dataset": "d", "prompts": 64, **BESIDE})
STRENGTH = 0.02
"""Of a random LoRA: pictures change, and stay pictures."""


def random_lora(folder: Path, seed: int) -> Path:
    import torch

    entry = load_profile("embedded", Settings()).bases["emoji"]
    base = load_base(entry)
    base.add_adapter("fresh", 16, 16, entry.targets, seed=seed)
    base.save_adapter("fresh", folder / "zero.safetensors", {})
    dice = torch.Generator().manual_seed(seed)
    return sabotage(
        folder / "zero.safetensors",
        folder / f"{seed}.safetensors",
        lambda up: torch.randn(up.shape, generator=dice) * STRENGTH,
    )


def evaluate(folder: Path, lora: Path, dataset: Path) -> float:
    """Wall seconds of the stage."""
    for name in ("out", "work", "lora"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    inputs = {
        "lora": lora_artifact(folder / "lora", lora, {}, {}),
        "dataset": LocalArtifact(dataset, manifest("dataset", {}, {}), "file:///d", "0" * 64),
    }
    settings = Settings(scratch=folder / "machine")
    start = time.perf_counter()
    stage.run(SPEC, StageContext(inputs, folder / "out", folder / "work", settings))
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        dataset = make_dataset(folder / "dataset", train=90, validation=24)
        first = evaluate(folder, random_lora(folder, 1), dataset)
        again = evaluate(folder, random_lora(folder, 2), dataset)
    figure = {
        "value": round(first, 1),
        "unit": "s",
        "goal": 60,
        "better": "lower",
        "against": f"another LoRA with the base's pictures kept: {again:.1f} s",
        "command": "make bench ONLY=evaluate",
    }
    sys.stdout.write(json.dumps({"evaluate.seconds_64_pairs": figure}) + "\n")


if __name__ == "__main__":
    main()
