"""An LLM's answers over the fallback's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_factory.guard.meaning import PromptFilter
from lora_factory.label.labels import MANY, Labelled
from lora_factory.label.taxonomy import UNKNOWN, Taxonomy
from lora_factory.label.zero_shot import Named

if TYPE_CHECKING:
    from lora_factory.label.answers import Answer
    from lora_factory.models.roles import TextEmbedder


def safe_answers(
    answers: Mapping[int, Answer], embedder: TextEmbedder
) -> tuple[dict[int, Answer], int]:
    """The answers whose words may be trained on, by the guard's rules; how many were not.

    A page's words passed the guard in sanitize; a model's have not.
    """
    rows = list(answers)
    words = [" ".join((answers[at].caption, *answers[at].keywords)) for at in rows]
    verdicts = PromptFilter(embedder).check(words) if words else []
    kept = {at: answers[at] for at, found in zip(rows, verdicts, strict=True) if found.allowed}
    return kept, len(rows) - len(kept)


def overlay(labelled: Labelled, answers: Mapping[int, Answer], taxonomy: Taxonomy) -> Labelled:
    """The same labels, an LLM's where it gave some.

    The set's style is the LLM's where it labelled at least half of the items and at least half
    of its labels agree.
    """
    if not answers:
        return labelled
    themes, styles, schools = [*labelled.themes], [*labelled.styles], [*labelled.schools]
    for at, answer in answers.items():
        path = answer.path(taxonomy)
        themes[at] = Named(path, answer.confidence if path else 0.0)
        styles[at], schools[at] = answer.style, answer.school
    return replace(
        labelled,
        themes=tuple(themes),
        styles=tuple(styles),
        schools=tuple(schools),
        style=_style([a.style for a in answers.values()], len(styles)) or labelled.style,
    )


def _style(given: Sequence[str], count: int) -> str | None:
    style, times = Counter(given).most_common(1)[0]
    enough = len(given) >= MANY * count and times >= MANY * len(given)
    return style if enough and style != UNKNOWN else None
