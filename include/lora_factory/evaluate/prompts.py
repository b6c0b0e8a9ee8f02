"""Evaluation prompts: the article's templates and more, the validation captions, and drift.

Two splits that share no text and no seed: one to choose the checkpoint on, one to report on.
Beside them drift prompts, whose pictures a LoRA should leave alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_factory.errors import DataError
from lora_factory.guard.content import check_prompt

if TYPE_CHECKING:
    from lora_factory.contracts.records import DatasetInfo, DatasetRecord
    from lora_factory.contracts.specs import EvaluateSpec

FEWEST = 4
"""Different prompts under which nothing is judged."""
SPLIT_SEEDS = 1_000_000
"""Distance of the splits' seeds."""
DRIFT_THINGS = (
    "apple", "banana", "bicycle", "book", "boat", "bridge", "bus", "butterfly", "cactus",
    "cake", "camera", "candle", "car", "castle", "chair", "cheese", "cherry", "clock", "cloud",
    "crab", "cup", "dolphin", "door", "drum", "duck", "elephant", "fish", "flower", "fox",
    "frog", "guitar", "hammer", "hat", "helicopter", "horse", "house", "key", "kite", "ladder",
    "lamp", "leaf", "lemon", "lighthouse", "moon", "mountain", "mushroom", "owl", "panda",
    "pencil", "penguin", "piano", "pizza", "rabbit", "rainbow", "robot", "rocket", "sandwich",
    "scissors", "shell", "ship", "shoe", "snail", "snowman", "star", "strawberry", "sun",
    "telescope", "tent", "tiger", "tomato", "tractor", "train", "tree", "trumpet", "turtle",
    "umbrella", "violin", "volcano", "watermelon", "whale", "window",
)  # fmt: skip
"""Everyday things that every base draws; those a dataset shows are left out."""


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt, its seed, and the real image its subject comes from (−1: none)."""

    text: str
    seed: int
    anchor: int

    def other_seed(self) -> EvalPrompt:
        """The same prompt with a seed that no prompt of an evaluation has."""
        return replace(self, seed=self.seed + 10 * SPLIT_SEEDS)


@dataclass(frozen=True)
class PromptSplits:
    """What an evaluation draws; a prompt's seeds follow each other."""

    report: tuple[EvalPrompt, ...]
    choose: tuple[EvalPrompt, ...]
    drift: tuple[EvalPrompt, ...]
    blocked: int
    """Records left out because the guard blocks their words."""
    lacking: int
    """Prompts asked for that could not be made without repeating others."""


def split_prompts(
    info: DatasetInfo,
    records: Sequence[DatasetRecord],
    shown: Collection[str],
    spec: EvaluateSpec,
) -> PromptSplits:
    """All prompts of an evaluation, decided by the spec's seed alone.

    Args:
        info: trigger, style and theme.
        records: real images that prompts are about.
        shown: words of everything the dataset shows (:func:`words_of`).
        spec: how many.

    Raises:
        DataError: the guard blocks all records, or they make fewer than ``FEWEST`` prompts.
    """
    wanted = spec.prompts + spec.choosing
    made, blocked = generate_eval_prompts(info, records, wanted, spec.seed)
    # Where there are too few texts for both, choosing gets its share of those there are.
    choosing = min(len(made) * spec.choosing // wanted, max(len(made) - FEWEST, 0))
    report, choose = made[: len(made) - choosing], made[len(made) - choosing :]
    if len(report) < FEWEST:
        msg = (
            f"the dataset's captions make only {len(report)} different prompts, evaluation "
            f"needs {FEWEST}: add images with captions of their own"
        )
        raise DataError(msg)
    things = [thing for thing in DRIFT_THINGS if _stem(thing) not in shown]
    random.Random(spec.seed).shuffle(things)  # noqa: S311  (a reproducible choice)
    drift = [
        EvalPrompt(f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}", spec.seed + n, -1)
        for n, thing in enumerate(things[: spec.drift])
    ]
    return PromptSplits(
        report=_seeded(report, spec.seeds, spec.seed),
        choose=_seeded(choose, 1, spec.seed + SPLIT_SEEDS),
        drift=_seeded(drift, 1, spec.seed + 2 * SPLIT_SEEDS),
        blocked=blocked,
        lacking=wanted - len(made),
    )


def generate_eval_prompts(
    info: DatasetInfo, records: Sequence[DatasetRecord], count: int, seed: int
) -> tuple[list[EvalPrompt], int]:
    """Up to ``count`` different prompts about the subjects of ``records``, decided by ``seed``.

    Captions as they are and the templates (those of article 4.1 and two that people type)
    take turns, going round the records; a second round swaps the two. Base and LoRA get the
    same words. There are fewer than ``count`` when the records make no more.

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
    prompts: list[EvalPrompt] = []
    seen: set[str] = set()
    for lap in range(2 * FORMS):
        for place, anchor in enumerate(order):
            record = records[anchor]
            as_is = (place + lap) % 2 == 0
            text = record.text if as_is else _template(info, record, place // 2 + lap, dice)
            if text in seen:  # a caption's second turn, or one that two records share
                text = _template(info, record, place + lap, dice)
            if text in seen or len(prompts) == count or not check_prompt(text).allowed:
                continue
            seen.add(text)
            prompts.append(EvalPrompt(text, seed + len(prompts), anchor))
    return prompts, blocked


def words_of(info: DatasetInfo, records: Sequence[DatasetRecord]) -> frozenset[str]:
    """Stems of the words in all captions and labels of a dataset."""
    texts = [info.style, info.theme, info.trigger, *info.keywords]
    for record in records:
        texts += [record.text, record.subject, *record.labels.theme, *record.labels.keywords]
    return frozenset(_stem(word) for text in texts for word in re.findall(r"\w+", text.lower()))


def with_trigger(prompts: Sequence[EvalPrompt], own: str, other: str) -> list[EvalPrompt]:
    """The same prompts for a LoRA with another trigger word."""
    word = re.compile(rf"(?<!\w){re.escape(own)}(?!\w)")
    return [replace(prompt, text=word.sub(lambda _: other, prompt.text)) for prompt in prompts]


def _seeded(prompts: Sequence[EvalPrompt], seeds: int, first: int) -> tuple[EvalPrompt, ...]:
    return tuple(
        replace(prompt, seed=first + number * seeds + turn)
        for number, prompt in enumerate(prompts)
        for turn in range(seeds)
    )


def _stem(word: str) -> str:
    """Plural and singular alike: enough to see that a dataset shows a thing."""
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def _harmless(record: DatasetRecord) -> bool:
    words = " ".join((record.text, record.subject, *record.labels.keywords))
    return check_prompt(words).allowed


FORMS = 5
"""Templates there are."""


def _template(info: DatasetInfo, record: DatasetRecord, number: int, dice: random.Random) -> str:
    """A template about the record's subject: the article's three, and two bare ones."""
    subject = record.subject or "picture"
    style = record.labels.style if record.labels.style != "unknown" else info.style
    theme = record.labels.theme[0] if record.labels.theme else info.theme
    keyword = dice.choice(record.labels.keywords or info.keywords or (subject,))
    forms = (
        f"{subject}, {info.trigger} in the style of {style}",
        f"High quality {theme} featuring {info.trigger} {subject}",
        f"{info.trigger} {subject} {keyword}",
        f"{info.trigger} {subject}",
        f"{subject} in {info.trigger} style",
    )
    return forms[number % FORMS]
