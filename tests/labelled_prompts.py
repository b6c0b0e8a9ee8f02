"""Labelled prompts (tests/unit/guard/data/prompts.jsonl): two halves, precision and recall.

``label`` is safe, sexual, minors or violence; ``form`` says what makes a prompt difficult:
plain, obfuscated, described (no listed word) for unsafe ones, everyday and hard for safe ones.
Rules and thresholds may be chosen by looking at the development half; the held-out half is
only counted. A prompt's own hash decides, so it never changes halves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

FILE = Path(__file__).parent / "unit" / "guard" / "data" / "prompts.jsonl"
Z = 1.96


@dataclass(frozen=True)
class Labelled:
    """One prompt, and what a person thinks of it."""

    prompt: str
    label: str
    form: str

    @property
    def unsafe(self) -> bool:
        """Whether it is to be refused."""
        return self.label != "safe"

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the half that nobody may look at to choose anything."""
        return hashlib.sha256(self.prompt.encode()).digest()[-1] % 2 == 1


@dataclass(frozen=True)
class Rate:
    """A share k of n with its 95% Wilson interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (1927)."""
        n, p = self.n, self.value
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return middle - half, middle + half

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] ({self.k}/{self.n})"


def labelled(*, held_out: bool) -> list[Labelled]:
    """The prompts of one half."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    found = [Labelled(**json.loads(line)) for line in lines]
    return [one for one in found if one.held_out == held_out]


def precision_and_recall(
    prompts: Sequence[Labelled], refused: Callable[[str], bool]
) -> tuple[Rate, Rate]:
    """Of the refused ones, how many are unsafe; of the unsafe ones, how many are refused."""
    verdicts = [(one.unsafe, refused(one.prompt)) for one in prompts]
    hits = sum(unsafe and no for unsafe, no in verdicts)
    return Rate(hits, sum(no for _, no in verdicts)), Rate(hits, sum(u for u, _ in verdicts))
