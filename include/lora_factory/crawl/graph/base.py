"""What every knowledge graph offers, and how it fails."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.links import singular

MAX_TERM = 60
"""Characters of the longest term; what is longer is a sentence."""

SAME, NARROWER, PART, ASSOCIATED, WHOLE, BROADER = 0.9, 0.8, 0.6, 0.5, 0.4, 0.3
"""What a relation is worth: how likely a picture of the one shows the other, as a rank order.

A synonym always does, a kind of it does (a picture of an owl shows a bird), a part of it often;
what is merely mentioned together sometimes, what it is a part of and what it is a kind of seldom
(a picture of an animal need show no bird). The figures are chosen, not measured; drift is cut by
measured similarity.
"""


class GraphError(Exception):
    """A graph can't answer; one line says why."""


class Absent(GraphError):
    """It can't be asked at all here: no data, no such language, host not allowed, resting."""


class TooLate(GraphError):
    """No answer within the time there is."""


class Unreachable(GraphError):
    """No connection, or an answer that is an error."""


class Unreadable(GraphError):
    """An answer, a file or a line that isn't what this graph should hold."""


@dataclass(frozen=True)
class Related:
    """A neighbour of a term.

    ``weight`` in (0, 1]: the relation's worth times how sure the graph is. ``source`` says where
    it was read. ``offensive``: the graph itself marks it as a slur. ``gloss``: what it means, in
    the graph's words. ``meaning``: the one of the word asked for by which it was found; terms of
    one meaning drift together.
    """

    term: str
    relation: str
    weight: float
    source: str
    language: str = "en"
    offensive: bool = False
    gloss: str = ""
    meaning: str = ""


class KnowledgeGraph(Protocol):
    """One provider: words → related words."""

    name: Graph

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """At most ``limit`` neighbours of ``term``, best first; none if it isn't known.

        Raises:
            GraphError: it can't be asked or doesn't answer as it should; nothing else.
        """

    def close(self) -> None:
        """Let go of connections and files; a lookup under way fails."""


def clean_term(text: str) -> str:
    """A node's label as words: underscores are spaces, one space between words, NFC.

    Empty if it can't be a term: control characters, lone surrogates, no letter, overlong.
    """
    found = unicodedata.normalize("NFC", " ".join(text.replace("_", " ").split()))
    if not 0 < len(found) <= MAX_TERM or not any(char.isalpha() for char in found):
        return ""
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"} for char in found):
        return ""
    return "" if re.search(r"[<>{}\\|]", found) else found


def forms(term: str, language: str) -> tuple[str, ...]:
    """A term in lower case as it is written, and what it may be the plural of (English only)."""
    asked = term.lower()
    head, space, last = asked.rpartition(" ")
    one = f"{head}{space}{singular(last)}"
    return (asked, one) if language == "en" and one != asked else (asked,)


def best_first(found: Sequence[Related], limit: int) -> list[Related]:
    """The ``limit`` heaviest, each term once (with its heaviest relation), ties by name."""
    heaviest: dict[str, Related] = {}
    for one in sorted(found, key=lambda one: (-one.weight, one.term, one.relation)):
        heaviest.setdefault(one.term.casefold(), one)
    return list(heaviest.values())[:limit]
