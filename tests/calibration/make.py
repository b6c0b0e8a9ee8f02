"""Trains the adapters that calibration needs, through the stage train; skips what is there.

::

    PYTHONPATH=include:tests:tests/calibration python tests/calibration/make.py

About 10 minutes a style on one core. Writes ``adapters/<style>/<kind>.safetensors`` (fp16,
rank 4, 0.5 MB): ``good-<seed>``, and the sabotages that need a training of their own:

=============  ==================================================================
``shuffled``   captions of the training icons dealt to other icons
``rate``       learning rate × 30, the weights of the last snapshot: the stage itself
               restores the best, which are none, or refuses when the loss is NaN
``memorised``  one icon, again and again
``overtrained``  four icons, each seen 20 times as often as a good training shows one;
               ``overtrained-1`` the next four
=============  ==================================================================

A zeroed ``lora_up`` and another style's adapter are derived where they are used. Sabotaged
sets have no held-out icons, so that training can't see what goes wrong and undo it.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from calibration_styles import STYLES, VALIDATION, Style, Use, icons, write_dataset

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.training import TrainPlan
from lora_factory.errors import TrainingError
from lora_factory.train import stage as train
from training_data import artifact, context, make_plan, plan_artifact

ADAPTERS = Path(__file__).parent / "adapters"
STEPS, BATCH = 200, 16
RATE = 4e-3  # what tune recommends for 96 images on the embedded base
MEMORISED_STEPS, RATE_STEPS = 160, 40
OVERTRAINED_ICONS, OVERTRAINED_TIMES = 4, 20
log = logging.getLogger("calibration")


def order() -> list[tuple[Style, str]]:
    """What to make, the reported styles first, so that a partial result is of use."""
    kinds = ("good-0", "shuffled", "rate", "memorised", "overtrained", "good-1")
    made: dict[Use, tuple[str, ...]] = {
        "report": kinds,
        "fit": (*kinds, "good-2", "overtrained-1"),  # more of what is hard to tell apart
        "witness": (*kinds, "good-2"),
    }
    return [
        (style, kind)
        for use, some in made.items()
        for kind in some
        for style in STYLES
        if style.use == use
    ]


def plan_of(kind: str, seed: int, learnt: int) -> TrainPlan:
    """``learnt``: training icons of the whole style."""
    steps = {
        "memorised": MEMORISED_STEPS,
        "rate": RATE_STEPS,
        "overtrained": STEPS * OVERTRAINED_TIMES * OVERTRAINED_ICONS // learnt,
    }.get(kind, STEPS)
    entry = make_plan().base_revision
    return make_plan(
        base_revision=entry,
        rank=4,
        alpha=4.0,
        target_modules=base_targets(),
        learning_rate=RATE * (30 if kind == "rate" else 1),
        batch_size=BATCH,
        steps=steps,
        warmup_steps=10,
        caption_dropout=0.2,
        seed=seed,
    )


def base_targets() -> tuple[str, ...]:
    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import load_profile

    return load_profile("embedded", Settings()).base(None, "art").targets


def dataset_of(folder: Path, style: Style, kind: str, seed: int) -> Path:
    subjects = icons(style.name).subjects[VALIDATION:]
    if kind == "shuffled":
        return write_dataset(folder, style.name, subjects=deal(subjects), held_out=False)
    if kind == "memorised":
        return write_dataset(folder, style.name, only=range(1), held_out=False)
    if kind == "overtrained":
        some = range(OVERTRAINED_ICONS * seed, OVERTRAINED_ICONS * (seed + 1))
        return write_dataset(folder, style.name, only=some, held_out=False)
    return write_dataset(folder, style.name, held_out=kind != "rate")


def deal(subjects: tuple[str, ...]) -> list[str]:
    """Each icon gets another icon's subject."""
    turn = list(range(len(subjects)))
    random.Random(3).shuffle(turn)
    after = dict(zip(turn, turn[1:] + turn[:1], strict=True))
    return [subjects[after[place]] for place in range(len(subjects))]


def make(style: Style, kind: str, target: Path) -> None:
    name, _, seed = kind.partition("-")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        dataset = artifact(dataset_of(folder / "dataset", style, name, int(seed or 0)), "dataset")
        learnt = len(icons(style.name).subjects) - VALIDATION
        plan = plan_artifact(folder / "plan", plan_of(name, int(seed or 0), learnt))
        ctx = context(folder / "work", dataset=dataset, plan=plan)
        made = ctx.out / "lora.safetensors"
        try:
            report = train.run(TrainSpec(dataset="d", plan="p"), ctx)
        except TrainingError as err:
            log.info("%s %s: %.60s", style.name, kind, err)
        else:
            losses = (report.validation_loss_before, report.validation_loss)
            log.info("%s %s: best %d, %.4f → %.4f", style.name, kind, report.best_step, *losses)
        if name == "rate":
            made = sorted((ctx.scratch / "checkpoints").iterdir())[-1]
        halve(made, target)


def halve(made: Path, target: Path) -> None:
    """Store in half precision, without what changes from run to run."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.half() for name, tensor in load_file(made).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    shutil.move(part, target)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    todo = order()
    progress = Progress("calibration", len(todo), "adapters")
    for style, kind in todo:
        target = ADAPTERS / style.name / f"{kind}.safetensors"
        if not target.exists():
            make(style, kind, target)
        progress.advance(1, f"{style.name} {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
