"""What each picture is called: its page's words, an LLM's, or its labels'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.records import CleanRecord, Labels
from lora_factory.label import captions
from lora_factory.label.keywords import FEWEST, keywords, padded, vocabulary, words_of
from lora_factory.label.taxonomy import UNKNOWN

if TYPE_CHECKING:
    from lora_factory.label.answers import Answer
    from lora_factory.label.labels import Labelled
    from lora_factory.label.taxonomy import Taxonomy

POOR_PERCENTILE = 25.0
"""Alignment under this percentile is poor, where the scorer can be believed at all."""


@dataclass(frozen=True)
class Given:
    """What there is to choose from, for n items.

    ``found``: n cleaned texts, empty where there is none. ``topics``: the last resort.
    ``answers``: item → an LLM's; its captions count where it saw the pictures (``vision``),
    its keywords always. ``closest``: items, words at hand → those that suit each best.
    """

    records: Sequence[CleanRecord]
    found: Sequence[str]
    topics: Sequence[str]
    answers: Mapping[int, Answer]
    vision: bool
    closest: Callable[[Sequence[int], Sequence[str]], Mapping[int, Sequence[str]]]


@dataclass(frozen=True)
class Words:
    """Subjects, where they come from, and keywords of n items; keywords of the set.

    ``padded``: items whose own words were fewer than five.
    """

    subjects: tuple[str, ...]
    sources: tuple[str, ...]
    each: tuple[tuple[str, ...], ...]
    all: tuple[str, ...]
    padded: int


def choose_words(given: Given, labelled: Labelled, taxonomy: Taxonomy, *, recaption: bool) -> Words:
    """Subjects and keywords of n items.

    A page's own words stand. Where they are poor, an LLM's caption does; else, with the advice
    ``recaption``, one composed of labels and the item's own keywords; where there are none,
    the theme.
    """
    # Of "ropes and hooks" no picture shows both; such names are given whole, where words lack.
    contexts = [
        " ".join((record.text, *(label for label in named.labels if " " not in label)))
        for record, named in zip(given.records, labelled.themes, strict=True)
    ]
    each, whole = keywords(given.found, contexts, given.topics)
    each = [
        given.answers[at].keywords if at in given.answers else words
        for at, words in enumerate(each)
    ]
    floor = _alignment_floor(given.records, labelled)
    chosen = [
        _choose(
            given, at, Labels(theme=labelled.themes[at].labels, keywords=each[at]), floor, recaption
        )
        for at in range(len(given.records))
    ]
    subjects, sources = zip(*chosen, strict=True)
    short = [at for at, words in enumerate(each) if len(words) < FEWEST]
    return Words(
        subjects, sources, _all_padded(given, labelled, taxonomy, each, short), whole, len(short)
    )


def _all_padded(
    given: Given,
    labelled: Labelled,
    taxonomy: Taxonomy,
    each: Sequence[tuple[str, ...]],
    short: Sequence[int],
) -> tuple[tuple[str, ...], ...]:
    """Keywords of n items; five at least wherever so many words are at hand."""
    known = vocabulary(each, [named.labels for named in labelled.themes], taxonomy.themes)
    topics = [word for topic in given.topics for word in words_of(topic)]
    closest = given.closest(short, known)
    found = list(each)
    for at in short:
        manners = (labelled.styles[at], labelled.schools[at])
        said = [*labelled.themes[at].labels, *(m for m in manners if m != UNKNOWN), *topics]
        found[at] = padded(each[at], said, closest[at])
    return tuple(found)


def _choose(
    given: Given, at: int, labels: Labels, floor: float | None, recaption: bool
) -> tuple[str, str]:
    """Subject of one item, and where it comes from."""
    text, last = given.found[at], given.topics[0].lower()
    poor = captions.is_poor(given.records[at], text, floor)
    if poor and given.vision and at in given.answers:
        said = captions.subject_of(given.answers[at].caption)
        if said:
            return said, "llm"
    if poor and recaption:
        return captions.compose_subject(labels, last), "composed"
    if text:
        return text, "found"
    return (labels.theme[0], "theme") if labels.theme else (last, "topic")


def _alignment_floor(records: Sequence[CleanRecord], labelled: Labelled) -> float | None:
    known = [record.alignment for record in records if record.alignment is not None]
    trusted = labelled.agreement.trusted and bool(known)
    return float(np.percentile(known, POOR_PERCENTILE)) if trusted else None
