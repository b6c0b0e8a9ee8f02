"""Which text of a page describes an image best, and how it was repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lora_factory.contracts.records import RawRecord
from lora_factory.sanitize.text import from_file_name, repair, sentences, usable

Source = Literal["caption", "alt", "nearby", "title", "composed", "none"]
# Written for the picture first, about its surroundings last.
RANK: dict[str, int] = {"caption": 4, "alt": 3, "nearby": 2, "title": 1, "composed": 1, "none": 0}
MAX_SHARED = 2
MAX_CANDIDATES = 12


@dataclass(frozen=True)
class Choice:
    """A text, where it stood, its original where repair changed it, and the steps that did.

    ``candidates`` are the page's other words about the image, for composing a caption.
    """

    text: str = ""
    source: Source = "none"
    original: str = ""
    steps: tuple[str, ...] = ()
    candidates: tuple[str, ...] = field(default=(), repr=False)


def choose_texts(records: Sequence[RawRecord]) -> list[Choice]:
    """The best text of each record.

    Order: figcaption, alt, nearby (its first usable sentence), page title. A text that more
    than two images of the same page share describes the page, not the image, and is passed
    over; it stays a candidate for composing.
    """
    options = [_options(record) for record in records]
    seen = Counter(
        (record.page_url, text)
        for record, found in zip(records, options, strict=True)
        for text in {choice.text for choice in found}
    )
    chosen = []
    for record, found in zip(records, options, strict=True):
        own = [
            c for c in found if not record.page_url or seen[record.page_url, c.text] <= MAX_SHARED
        ]
        chosen.append(_pick(record, found, own))
    return chosen


def _options(record: RawRecord) -> list[Choice]:
    found = []
    for source, text in _sources(record):
        done = repair(text)
        if usable(done.text):
            original = text if done.steps else ""
            found.append(Choice(done.text, source, original, done.steps))
    return found


def _sources(record: RawRecord) -> list[tuple[Source, str]]:
    nearby = sentences(record.nearby)
    return [
        ("caption", record.caption),
        ("alt", record.alt),
        ("nearby", nearby[0] if nearby else ""),
        ("title", record.page_title),
    ]


def _pick(record: RawRecord, found: Sequence[Choice], own: Sequence[Choice]) -> Choice:
    best = own[0] if own else Choice()
    name = from_file_name(record.url) or from_file_name(record.file_name)
    words = [name, *(choice.text for choice in found), *sentences(record.nearby)]
    candidates = tuple(dict.fromkeys(word for word in words if word))[:MAX_CANDIDATES]
    return replace(best, candidates=candidates)
