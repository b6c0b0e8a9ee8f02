"""Topics → words to look up, and which of the words found may be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lora_factory.contracts.expansion import DroppedTerm, DropReason, Graph, Hop, Term
from lora_factory.crawl.graph.base import Related, clean_term
from lora_factory.crawl.links import STOP_WORDS, terms
from lora_factory.guard.content import check_prompt
from lora_factory.models.roles import TextEmbedder

WORDS = 4
"""Words of the longest term; what has more is a sentence."""
STARTS = 8
"""Words of a topic that are looked up, at most."""
HEAD, MODIFIER = 0.9, 0.6
"""What a word of a phrase is worth: *locomotives*, and *steam*, of *steam locomotives*."""
ITSELF = 0.25
"""What a term's own cosine counts for, beside the mean of its meaning."""
LEAST = 0.05  # of the cosine that a topic's own words are taken to have
SEPARATOR = re.compile(r"[,;/&+()\"]|\b(?:and|or)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Start:
    """A word to look up, and how one came to it from a topic."""

    topic: str
    start: str
    text: str
    weight: float
    path: tuple[Hop, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A neighbour of a start."""

    origin: Start
    found: Related

    @property
    def term(self) -> str:
        """Its words."""
        return self.found.term

    @property
    def weight(self) -> float:
        """Product of the weights along its path."""
        return self.origin.weight * self.found.weight


def starts(topic: str) -> list[Start]:
    """Phrases of a topic between separators and common words, then their words, head first.

    *icons of animals, food and objects* → icons, animals, food, objects;
    *steam locomotives* → steam locomotives, locomotives, steam.
    """
    phrases: list[list[str]] = []
    for part in SEPARATOR.split(topic):
        phrases.append([])
        for word in part.split():
            if word.casefold() in STOP_WORDS:
                phrases.append([])
            else:
                phrases[-1].append(word.strip(".,:!?'"))
    found: dict[str, float] = {}
    for phrase in phrases:
        if len(phrase) <= WORDS:
            found.setdefault(" ".join(phrase), 1.0)
    for phrase in phrases:
        if len(phrase) > 1:
            found.setdefault(phrase[-1], HEAD)
            for word in phrase[:-1]:
                found.setdefault(word, MODIFIER)
    words = [(term, weight) for text, weight in found.items() if (term := clean_term(text))]
    return [Start(topic, term, term, weight) for term, weight in words[:STARTS]]


def query(topic: str, start: str, term: str) -> str:
    """What to ask a search engine: the topic with ``start`` replaced by the term.

    *woodcut birds* → *woodcut owl*. Where the topic lists several things, the term alone.
    """
    if SEPARATOR.search(topic) or start not in topic:
        return term
    return topic.replace(start, term, 1)


def nearness(found: Sequence[Candidate], embedder: TextEmbedder) -> list[float]:
    """How near each is to its topic: cosine, as a share of what the topic's own words have.

    Terms drift by meanings: of *bass guitar* not *bass part* or *singer* is doubtful, but the
    voice, with all that is named for it. So a term is embedded with its gloss, and judged by the
    mean over all terms of its meaning, its own cosine counting for a quarter. A short text is never
    as close to a long topic as the topic to itself; hence the share, of the nearest word of the
    topic that something was found by.

    Chosen on 16 topics with doubtful words (``tests/labelled_terms.py``: 423 terms, 161 drifted;
    AUC 0.89, the bare term's cosine as a share of its own word's 0.65). On 20 others, looked at
    once (469, 201): 0.81 after 0.70, at the default cut 83% of the good and 30% of the drifted ones
    stay, after 70% and 34%. Where a graph tells neither gloss nor meaning the term's cosine is
    all there is.
    """
    if not found:
        return []
    spoken = [f"{one.term}: {one.found.gloss}" if one.found.gloss else one.term for one in found]
    origins = [text for one in found for text in (one.origin.topic, one.origin.start)]
    texts = list(dict.fromkeys((*spoken, *origins)))
    vectors = dict(zip(texts, embedder.encode(texts), strict=True))
    own: dict[str, float] = {}
    alike: dict[tuple[str, ...], list[float]] = {}
    cosines, meanings = [], []
    for one, text in zip(found, spoken, strict=True):
        origin, topic = one.origin, vectors[one.origin.topic]
        share = max(own.get(origin.topic, LEAST), float(vectors[origin.start] @ topic))
        own[origin.topic] = min(1.0, share)
        cosines.append(float(vectors[text] @ topic))
        meanings.append((origin.topic, origin.text, one.found.meaning or one.term))
        alike.setdefault(meanings[-1], []).append(cosines[-1])
    return [
        (ITSELF * cosine + (1 - ITSELF) * fmean(alike[meaning])) / own[one.origin.topic]
        for one, cosine, meaning in zip(found, cosines, meanings, strict=True)
    ]


class Sieve:
    """Judges candidates, and remembers what there is.

    Args:
        topics: of the run.
        languages: that terms may be in.
        min_similarity: as a share of the similarity that the topic's own words have.
        embedder: None: no candidate can be judged, and none passes.
    """

    def __init__(
        self,
        topics: Sequence[str],
        languages: Sequence[str],
        min_similarity: float,
        embedder: TextEmbedder | None,
    ) -> None:
        self._languages, self._floor = frozenset(languages), min_similarity
        self._embedder = embedder
        self._known = {frozenset(terms(topic)) for topic in topics}
        for topic in topics:
            self._known |= {frozenset(terms(start.text)) for start in starts(topic)}
        self.dropped: list[DroppedTerm] = []

    def judge(self, candidates: Iterable[Candidate], graph: Graph) -> list[tuple[Start, Term]]:
        """Those that may be used, heaviest first, each also as what may be looked up next."""
        waiting = []
        for one in sorted(candidates, key=lambda one: (-one.weight, one.term)):
            reason, detail = self._look(one)
            if reason is None:
                waiting.append(one)
            else:
                self._drop(one, graph, reason, detail)
        if self._embedder is None:
            for one in waiting:
                self._drop(one, graph, "unjudged", "no text embedder to judge drift by")
            return []
        return self._near(waiting, graph, self._embedder)

    def _look(self, one: Candidate) -> tuple[DropReason | None, str]:
        """Why it may not be used, by its words alone."""
        words = frozenset(terms(one.term))
        if not words or len(one.term.split()) > WORDS or clean_term(one.term) != one.term:
            return "not_a_term", ""
        if one.found.language not in self._languages:
            return "language", one.found.language
        if one.found.offensive:
            return "content", f"marked by {one.found.source}"
        # Also in the topic's words: what is harmless alone may not be beside them.
        asked = query(one.origin.topic, one.origin.start, one.term)
        for text in (one.term, asked):
            verdict = check_prompt(text)
            if not verdict.allowed:
                return "content", verdict.rule
        return ("duplicate", "") if words in self._known else (None, "")

    def _near(
        self, waiting: Sequence[Candidate], graph: Graph, embedder: TextEmbedder
    ) -> list[tuple[Start, Term]]:
        """Those that are still about their topic."""
        kept = []
        for one, near in zip(waiting, nearness(waiting, embedder), strict=True):
            if not near >= self._floor:  # also where a vector is not a number
                self._drop(one, graph, "drift", f"{near:.2f} of what the topic's own words have")
            elif (words := frozenset(terms(one.term))) in self._known:
                self._drop(one, graph, "duplicate", "")
            else:
                self._known.add(words)
                kept.append((_next(one), _term(one, graph, near)))
        return kept

    def _drop(self, one: Candidate, graph: Graph, reason: DropReason, detail: str) -> None:
        text = one.term.encode("utf-8", "replace").decode()[:200]
        dropped = DroppedTerm(
            text=text, topic=one.origin.topic, graph=graph, reason=reason, detail=detail
        )
        self.dropped.append(dropped)


def _next(one: Candidate) -> Start:
    path = (*one.origin.path, Hop(relation=one.found.relation, term=one.term))
    return Start(one.origin.topic, one.origin.start, one.term, one.weight, path)


def _term(one: Candidate, graph: Graph, near: float) -> Term:
    origin = one.origin
    return Term(
        text=one.term,
        topic=origin.topic,
        weight=round(one.weight, 4),
        query=query(origin.topic, origin.start, one.term),
        graph=graph,
        start=origin.start,
        path=_next(one).path,
        similarity=round(min(1.0, near), 4),
    )
