"""Evaluation prompts: the article's three templates, and the validation captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.errors import DataError
from lora_factory.guard.content import check_prompt

if TYPE_CHECKING:
    from lora_factory.contracts.records import DatasetInfo, DatasetRecord


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt, its seed, and the real image its subject comes from."""

    text: str
    seed: int
    anchor: int


def generate_eval_prompts(
    info: DatasetInfo, records: Sequence[DatasetRecord], count: int, seed: int
) -> tuple[list[EvalPrompt], int]:
    """``count`` prompts about the subjects of ``records``, decided by ``seed`` alone.

    Captions as they are and the templates of article 4.1 (with the subject put in) take
    turns, going round the records; a second round swaps the two, so that nothing repeats
    before it must. Base and LoRA get the same words.

    Returns:
        The prompts, and how many records were left out because the guard blocks their words.

    Raises:
        DataError: the guard blocks them all.
    """
    dice = random.Random(seed)  # noqa: S311  (a reproducible choice, not a secret)
    order = [i for i, record in enumerate(records) if _harmless(record)]
    blocked = len(records) - len(order)
    if not order:
        msg = f"the prompt filter blocks the captions of all {blocked} real images; clean the data"
        raise DataError(msg)
    dice.shuffle(order)
    prompts = []
    for number in range(count):
        lap, place = divmod(number, len(order))
        record = records[order[place]]
        as_is = (place + lap) % 2 == 0
        text = record.text if as_is else _template(info, record, place // 2 + lap, dice)
        prompts.append(EvalPrompt(text, seed + number, order[place]))
    return prompts, blocked


def _harmless(record: DatasetRecord) -> bool:
    words = " ".join((record.text, record.subject, *record.labels.keywords))
    return check_prompt(words).allowed


def _template(info: DatasetInfo, record: DatasetRecord, number: int, dice: random.Random) -> str:
    """One of the article's templates, about the record's subject."""
    subject = record.subject or "picture"
    style = record.labels.style if record.labels.style != "unknown" else info.style
    theme = record.labels.theme[0] if record.labels.theme else info.theme
    keyword = dice.choice(record.labels.keywords or info.keywords or (subject,))
    forms = (
        f"{subject}, {info.trigger} in the style of {style}",
        f"High quality {theme} featuring {info.trigger} {subject}",
        f"{info.trigger} {subject} {keyword}",
    )
    return forms[number % len(forms)]
