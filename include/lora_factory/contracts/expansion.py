"""Topic expansion: what a crawl asks knowledge graphs for, and what they answered.

A graph only ever adds terms. Which pages are on topic is judged against the topics alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract

Graph = Literal["wordnet", "conceptnet_local", "wikidata", "conceptnet"]
Status = Literal["answered", "timeout", "skipped", "error"]
DropReason = Literal[
    "drift", "unjudged", "language", "duplicate", "not_a_term", "content", "over_limit"
]
OFFLINE: tuple[Graph, ...] = ("wordnet", "conceptnet_local")
"""Graphs that make no request; those that the deployment has no data for are skipped."""


class ExpansionSpec(Contract):
    """Which graphs are asked, in which order, how far, and how long.

    The public ones (``wikidata``, ``conceptnet``) are asked only if named here and if the
    deployment lets the crawler reach their host. No graph: the topics alone.
    """

    graphs: tuple[Graph, ...] = Field(OFFLINE, max_length=4, description="In this order")
    depth: int = Field(1, ge=1, le=3, description="Edges between a topic and a term, at most")
    fan_out: int = Field(16, ge=1, le=50, description="Neighbours of a term that are looked at")
    max_terms: int = Field(40, ge=0, le=500, description="Terms beside the topics, at most")
    min_similarity: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="Cosine to the topic, as a share of what the topic's own words have, below "
        "which a term has drifted away",
    )
    languages: tuple[str, ...] = Field(
        ("en",),
        min_length=1,
        max_length=8,
        description="ISO 639-1 codes: the topics are in the first, terms may be in any",
    )
    seconds: float = Field(20.0, gt=0, le=600, description="All graphs together, at most")


class Hop(Contract):
    """One edge of a path: ``relation`` leads to ``term``."""

    relation: str
    term: str


class Term(Contract):
    """One thing to look for. A topic is a term of weight 1 without a path."""

    text: str
    topic: str = Field(description="The topic it belongs to")
    weight: float = Field(gt=0, le=1, description="How much it says about the topic")
    query: str = Field(description="What a search engine is asked: the term in the topic's words")
    graph: Graph | None = Field(None, description="Who named it; None: the topic itself")
    start: str = Field("", description="Words of the topic that the path begins with")
    path: tuple[Hop, ...] = ()
    similarity: float = Field(
        1.0, ge=-1.001, le=1.001, description="Cosine to the topic, as that share"
    )


class DroppedTerm(Contract):
    """A term that a graph named and that isn't used."""

    text: str
    topic: str
    graph: Graph
    reason: DropReason
    detail: str = ""


class GraphAnswer(Contract):
    """What became of one graph."""

    graph: Graph
    status: Status
    seconds: float = Field(ge=0)
    asked: int = Field(0, ge=0, description="Words looked up")
    named: int = Field(0, ge=0, description="Terms it named")
    kept: int = Field(0, ge=0, description="Terms of its that are used")
    detail: str = Field("", description="Why it was skipped, or what went wrong")


class Expansion(Contract):
    """Terms of a crawl, the topics first, then by weight."""

    terms: tuple[Term, ...] = Field(min_length=1)
    graphs: tuple[GraphAnswer, ...] = ()
    dropped: tuple[DroppedTerm, ...] = ()
    seconds: float = Field(0.0, ge=0)

    def weights(self) -> dict[str, float]:
        """Term → weight: what :class:`~lora_factory.crawl.links.LinkScorer` takes."""
        return {term.text: term.weight for term in reversed(self.terms)}

    def queries(self, limit: int) -> tuple[str, ...]:
        """The ``limit`` best things to search for, each once: every topic, then terms."""
        topics = [term.query for term in self.terms if term.graph is None]
        further = [term for term in self.terms if term.graph is not None]
        further.sort(key=lambda term: -term.weight * max(term.similarity, 0.0))
        others = [term.query for term in further]
        found = tuple(dict.fromkeys((*topics, *others)))
        return found[: max(limit, len(set(topics)))]


def alone(topics: tuple[str, ...]) -> Expansion:
    """The topics without any expansion."""
    return Expansion(
        terms=tuple(
            Term(text=topic, topic=topic, weight=1.0, query=topic)
            for topic in dict.fromkeys(topics)
        )
    )
