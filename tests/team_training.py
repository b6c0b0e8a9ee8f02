"""``python team_training.py FOLDER PROCESSES STEPS``: a training in a process of its own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from lora_factory.contracts.specs import TrainSpec
from lora_factory.train import loop, stage
from training_data import artifact, context, make_dataset, make_plan, plan_artifact


def main(folder: Path, processes: int, steps: int) -> None:
    """Train into ``folder``, with a checkpoint each step; again: go on from the last one."""
    loop.CHECKPOINT_SECONDS = 0.0
    if not (folder / "plan").exists():
        make_dataset(folder / "dataset", train=8, validation=4)
        # Batches of 6 in parts of 3: with two processes shares of 3, with one two parts.
        plan = make_plan(batch_size=3, gradient_accumulation=2, steps=steps)
        plan_artifact(folder / "plan", plan)
    inputs = {
        "dataset": artifact(folder / "dataset", "dataset"),
        "plan": artifact(folder / "plan", "plan"),
    }
    ctx = context(folder, **inputs)
    settings = ctx.settings.model_copy(update={"train_processes": processes})
    stage.run(TrainSpec(dataset="d", plan="p"), dataclasses.replace(ctx, settings=settings))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
