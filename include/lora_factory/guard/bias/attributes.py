"""The audited attributes: their words, and which prompts name them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lora_factory.guard.content import normalise

WORDS = Path(__file__).with_name("attributes.toml")


@dataclass(frozen=True)
class Attribute:
    """Something that pictures of people show, with two groups; see ``attributes.toml``."""

    name: str
    groups: tuple[str, str]
    texts: tuple[str, str]
    people: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    named_by: re.Pattern[str]

    def named_in(self, prompt: str) -> bool:
        """Whether a prompt says which group it wants: it is then none of ours to change."""
        return self.named_by.search(_plain(prompt)) is not None


@dataclass(frozen=True)
class Vocabulary:
    """Everything the audit has words for."""

    attributes: tuple[Attribute, ...]
    contexts: tuple[str, ...]
    """Templates with one ``{}`` for a person."""
    neutral: tuple[str, ...]
    """Persons that name no attribute."""


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The words in ``attributes.toml``."""
    data = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    attributes = tuple(
        Attribute(
            name=name,
            groups=_two(entry["groups"]),
            texts=_two(entry["texts"]),
            people=_two(entry["people"]),
            pairs=tuple(_two(pair) for pair in entry["pairs"]),
            named_by=_pattern(entry["named_by"]),
        )
        for name, entry in data["attributes"].items()
    )
    return Vocabulary(attributes, tuple(data["contexts"]), tuple(data["neutral"]))


def _two(items: Sequence[str]) -> tuple[str, str]:
    first, second = items
    return first, second


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Whole words in :func:`_plain` text; a final ``*`` is any ending."""
    parts = (re.escape(word.removesuffix("*")) + "[a-z]*" * word.endswith("*") for word in words)
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b")


def _plain(text: str) -> str:
    """Lower-case words with single spaces: accents, look-alikes and punctuation undone."""
    return " ".join(re.findall(r"[a-z0-9]+", normalise(text)))
