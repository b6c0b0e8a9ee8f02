"""Does the LoRA repeat what it was trained on, or a protected work? (article, 6.2)

The reporting pictures are looked at, and a few more that try to draw copies out of it: text
conditioning drives copying, so their prompts are captions of training images, word for word.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.records import write_jsonl
from lora_factory.evaluate.gates import no_protected_works
from lora_factory.evaluate.prompts import SPLIT_SEEDS, EvalPrompt
from lora_factory.guard.content import check_prompt
from lora_factory.guard.copying import perceptual_hashes
from lora_factory.guard.copyright import copyright_check

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from lora_factory.contracts.copyright import CopyrightCheck, Policy
    from lora_factory.contracts.evaluation import HardGate
    from lora_factory.contracts.records import DatasetRecord
    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.evaluate.evaluator import LoRAEvaluator
    from lora_factory.guard.copying import Nearest
    from lora_factory.guard.output import OutputGuard
    from lora_factory.guard.protected import ProtectedIndex

log = logging.getLogger(__name__)


class AttackRecord(Contract):
    """One line of ``attack.jsonl``."""

    file_name: str = Field(description="Under images/attack")
    prompt: str
    seed: int


@dataclass(frozen=True)
class Attack:
    """Pictures made from training captions, and the checks of these and all others."""

    prompts: tuple[EvalPrompt, ...]
    images: tuple[Image, ...]
    checks: tuple[CopyrightCheck, ...]
    """Against the training set, and against the protected works where there is an index."""

    def gates(self) -> tuple[HardGate, ...]:
        """``no_protected_works``, where there is an index.

        The training set's gate is ``no_copies``, on the reporting pictures alone: what a LoRA
        draws of a caption that it learnt is meant to come close; it is shown, not judged.
        """
        return tuple(
            no_protected_works(check) for check in self.checks if check.against == "protected"
        )

    def write(self, out: Path, guard: OutputGuard) -> None:
        """``attack.jsonl``, and ``images/attack/*.png`` but for those the guard refuses."""
        folder = out / "images" / "attack"
        folder.mkdir(parents=True, exist_ok=True)
        records = []
        shown = zip(self.prompts, self.images, guard.check(self.images), strict=True)
        for number, (prompt, image, finding) in enumerate(shown):
            name = f"{number:04d}.png"
            records.append(AttackRecord(file_name=name, prompt=prompt.text, seed=prompt.seed))
            if finding.allowed:
                image.save(folder / name)
        write_jsonl(out / "attack.jsonl", records)


def attack_prompts(
    train: Sequence[DatasetRecord], nearest: Sequence[Nearest], spec: EvaluateSpec
) -> tuple[EvalPrompt, ...]:
    """Captions of training images, word for word, at most ``spec.attacks``; no two alike.

    First of the images that the LoRA's pictures came closest to, since what it learnt by heart
    shows there; the rest in the order of the dataset. A caption that the prompt filter blocks
    is left out.

    Args:
        train: training records; ``nearest`` points into them.
        nearest: of the LoRA's other pictures.
        spec: how many, and the seed; the attack's own seeds are no other picture's.
    """
    closest = sorted(nearest, key=lambda one: (one.copied, one.similarity), reverse=True)
    order = dict.fromkeys([*(one.index for one in closest), *range(len(train))])
    texts: dict[str, int] = {}
    for index in order:
        text = train[index].text
        if len(texts) < spec.attacks and text not in texts and check_prompt(text).allowed:
            texts[text] = index
    first = spec.seed + 3 * SPLIT_SEEDS
    return tuple(EvalPrompt(text, first + n, -1) for n, text in enumerate(texts))


def attack(evaluator: LoRAEvaluator, index: ProtectedIndex | None, policy: Policy) -> Attack:
    """Draw from training captions with the drawn LoRA, and check all its pictures.

    Args:
        evaluator: after ``draw`` and before ``run_evaluation``.
        index: of protected works; None: the operator has none.
        policy: of the deployment, for protected works.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    data = evaluator.data
    train = data.records[: len(data.train_files)]
    prompts = attack_prompts(train, evaluator.nearest, evaluator.spec)
    images = evaluator.painter.paint(prompts, evaluator.adapter, what="LoRA, training captions")
    vectors = evaluator.scorer.embed_images(images)
    hashes = perceptual_hashes(images)
    files = [
        *(f"images/lora/{number:04d}.png" for number in range(len(evaluator.lora))),
        *(f"images/attack/{number:04d}.png" for number in range(len(images))),
    ]
    checks = [
        copyright_check(
            [*evaluator.nearest, *data.copies.nearest(vectors, hashes)],
            files,
            [file.name for file in data.train_files],
            data.copies.cuts,
            against="training",
        )
    ]
    if index is not None:
        all_vectors = np.concatenate([evaluator.pairs.lora, vectors])
        all_hashes = np.concatenate([perceptual_hashes(evaluator.lora), hashes])
        checks.append(
            copyright_check(
                index.nearest(all_vectors, all_hashes),
                files,
                [work.name for work in index.info.works],
                index.cuts,
                against="protected",
                policy=policy,
            )
        )
    for check in checks:
        log.info("copyright, %s works: %s", check.against, check.note)
    return Attack(prompts, tuple(images), tuple(checks))
