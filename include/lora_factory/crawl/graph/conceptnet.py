"""Graph ``conceptnet``: ConceptNet 5's public API (the article's graph).

Endpoint: ``GET https://api.conceptnet.io/c/<language>/<term>?limit=100``
(``LORA_FACTORY_CONCEPTNET_URL``). Licence: CC BY-SA 4.0 (edges of some sources CC BY 4.0); a crawl
keeps terms to search by, no edges. Limits: 3600 requests an hour, 120 a minute; it is often down
(502 for months in 2025 and 2026), so a time-out, a cache and a circuit breaker stand before it.
Authentication: none. It is asked only if a run names it and the deployment lets the crawler reach
its host. :mod:`lora_factory.crawl.graph.assertions` reads the same edges from the official dump.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.graph.base import (
    ASSOCIATED,
    BROADER,
    NARROWER,
    PART,
    SAME,
    WHOLE,
    Related,
    Unreadable,
    best_first,
    clean_term,
    forms,
)
from lora_factory.crawl.graph.http import JsonClient

EDGES = 100
"""Edges that are asked for (the article's ``limit``)."""
RELATIONS: dict[str, tuple[float, float]] = {
    "Synonym": (SAME, SAME),
    "SimilarTo": (SAME, SAME),
    "FormOf": (SAME, SAME),
    "DefinedAs": (SAME, SAME),
    "IsA": (BROADER, NARROWER),
    "InstanceOf": (BROADER, NARROWER),
    "MannerOf": (BROADER, NARROWER),
    "PartOf": (WHOLE, PART),
    "HasA": (PART, WHOLE),
    "MadeOf": (PART, WHOLE),
    "HasContext": (BROADER, ASSOCIATED),
    "RelatedTo": (ASSOCIATED, ASSOCIATED),
    "DerivedFrom": (ASSOCIATED, ASSOCIATED),
    "AtLocation": (ASSOCIATED, ASSOCIATED),
    "LocatedNear": (ASSOCIATED, ASSOCIATED),
    "SymbolOf": (ASSOCIATED, ASSOCIATED),
    "dbpedia/genre": (ASSOCIATED, ASSOCIATED),
}
"""Relation → what the end is worth to the start, and the start to the end.

*penguin IsA bird*: asked for bird, penguin is a kind of it. What is missing here (Antonym,
NotDesires, ExternalURL, …) says nothing about pictures.
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A term of one language."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Edge:
    """``start`` ``relation`` ``end``; ``weight`` is how sure ConceptNet is, mostly 1 to 10."""

    relation: str
    start: Node
    end: Node
    weight: float

    def seen_from(self, term: str, language: str, source: str) -> Related | None:
        """The edge's other end, asked for ``term``; None where it has nothing to say."""
        worth = RELATIONS.get(self.relation)
        if worth is None:
            return None
        wanted = term.casefold()
        sure = self.weight / (1 + self.weight)
        if self.start.text.casefold() == wanted and self.start.language == language:
            there, value, relation = self.end, worth[0], self.relation
        elif self.end.text.casefold() == wanted and self.end.language == language:
            there, value, relation = self.start, worth[1], f"{self.relation} (inverse)"
        else:
            return None
        if not there.text or there.text.casefold() == wanted:
            return None
        return Related(there.text, relation, value * sure, source, there.language)


def neighbours(edges: Iterable[Edge], term: str, language: str, source: str) -> list[Related]:
    """What the edges say of ``term``."""
    found = (edge.seen_from(term, language, source) for edge in edges)
    return [one for one in found if one is not None]


def parse_node(uri: object) -> Node:
    """``/c/en/polar_bear/n/…`` → language and words (words empty where they make no term).

    Raises:
        Unreadable: it is no node.
    """
    parts = uri.split("/") if isinstance(uri, str) else []
    if len(parts) < 4 or parts[0] or parts[1] != "c" or not 2 <= len(parts[2]) <= 12:
        msg = f"{str(uri)[:60]!r} is no ConceptNet node"
        raise Unreadable(msg)
    return Node(parts[2], clean_term(parts[3]))


def parse_relation(uri: object) -> str:
    """``/r/IsA`` → ``IsA``.

    Raises:
        Unreadable: it is no relation.
    """
    if not isinstance(uri, str) or not uri.startswith("/r/") or not 3 < len(uri) < 60:
        msg = f"{str(uri)[:60]!r} is no ConceptNet relation"
        raise Unreadable(msg)
    return uri[3:]


def parse_weight(weight: object) -> float:
    """A positive, finite number.

    Raises:
        Unreadable: it is none.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 < weight < 1e6:  # type: ignore[operator]
        msg = f"{str(weight)[:60]!r} is no weight"
        raise Unreadable(msg)
    return float(weight)  # type: ignore[arg-type]


def parse_edges(data: Any, url: str) -> list[Edge]:
    """Edges of an answer; what isn't between two words (an external URL) is left out.

    Raises:
        Unreadable: it isn't ConceptNet's.
    """
    entries = data.get("edges") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        msg = f"{url} doesn't answer as ConceptNet does: no edges"
        raise Unreadable(msg)
    return [edge for entry in entries for edge in _edge(entry)]


def _edge(entry: Any) -> Iterator[Edge]:
    try:
        relation = parse_relation(entry["rel"]["@id"])
        start, end = parse_node(entry["start"]["@id"]), parse_node(entry["end"]["@id"])
        yield Edge(relation, start, end, parse_weight(entry.get("weight", 1.0)))
    except (KeyError, TypeError, AttributeError, Unreadable):
        return


class ConceptNet:
    """ConceptNet's API.

    Args:
        client: asks it.
        endpoint: base URL.
        language: of the terms that are asked for.
    """

    name: Graph = "conceptnet"

    def __init__(self, client: JsonClient, endpoint: str, language: str) -> None:
        self._client, self._endpoint, self._language = client, endpoint.rstrip("/"), language

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """Neighbours of a term, in any language.

        Raises:
            GraphError: the API can't be asked or doesn't answer as it should.
        """
        found: list[Related] = []
        for form in forms(term, self._language):
            path = quote(form.replace(" ", "_"), safe="")
            url = f"{self._endpoint}/c/{self._language}/{path}?limit={EDGES}"
            data = self._client.get(url)
            if data is not None:
                found += neighbours(parse_edges(data, url), form, self._language, url)
        return best_first(found, limit)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
