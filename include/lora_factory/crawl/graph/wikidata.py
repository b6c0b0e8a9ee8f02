"""Graph ``wikidata``: classes, kinds and parts of Wikidata's items.

Endpoint: ``GET https://www.wikidata.org/w/api.php`` (``LORA_FACTORY_WIKIDATA_URL``) with
``wbsearchentities`` (a word's items), ``wbgetentities`` (claims: instance of P31, subclass of P279,
part of P361; labels), and ``list=search`` with ``haswbstatement`` for the items that say the same
of this one; the query service (SPARQL) is not needed for one step. Licence: CC0. Limits: one
request at a time, ``maxlag=5``, Retry-After is kept to, cached; a User-Agent with a contact
address (``LORA_FACTORY_USER_AGENT``) is required. Authentication: none. It is asked only if a run
names it and the deployment lets the crawler reach its host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeGuard
from urllib.parse import urlencode, urlsplit, urlunsplit

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.graph.base import (
    BROADER,
    NARROWER,
    PART,
    WHOLE,
    Related,
    Unreachable,
    Unreadable,
    best_first,
    clean_term,
    forms,
)
from lora_factory.crawl.graph.http import JsonClient

ITEMS = 2
"""Items of a word that are looked at."""
UP = {"P31": ("instance of", BROADER), "P279": ("subclass of", BROADER), "P361": ("part of", WHOLE)}
DOWN = (("kind of it", NARROWER, ("P279", "P31")), ("part of it", PART, ("P361",)))
BATCH = 50
"""Items a request, as the API allows."""
ITEM = re.compile(r"Q[1-9]\d{0,11}")


class Wikidata:
    """Wikidata's API.

    Args:
        client: asks it.
        endpoint: ``api.php``.
        language: of the terms that are asked for.
        languages: of the labels that are wanted.
    """

    name: Graph = "wikidata"

    def __init__(
        self, client: JsonClient, endpoint: str, language: str, languages: Sequence[str]
    ) -> None:
        self._client, self._endpoint = client, endpoint
        self._language, self._languages = language, tuple(languages)

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """Classes, kinds and parts of what a term may mean.

        Raises:
            GraphError: the API can't be asked or doesn't answer as it should.
        """
        items = parse_search(self._ask(_entities(term, self._language)), term)[:ITEMS]
        if not items:
            return ()
        edges: dict[str, tuple[str, float]] = {}
        claims = self._ask(_get(items, "claims"))
        for rank, item in enumerate(items):
            sure = 1.0 / (1 + 0.25 * rank)
            for relation, worth, properties in DOWN:
                hits = parse_hits(self._ask(_having(properties, item, limit)))
                for at, other in enumerate(hits):
                    # The search lists those first that most pages link to.
                    known = 1 - 0.25 * at / max(1, len(hits))
                    edges.setdefault(other, (relation, worth * sure * known))
            for property_, others in parse_claims(claims, item).items():
                for other in others:
                    edges.setdefault(other, (UP[property_][0], UP[property_][1] * sure))
        wanted = sorted(edges, key=lambda item: -edges[item][1])[:BATCH]
        if not wanted:
            return ()
        labels = parse_labels(self._ask(_get(wanted, "labels", self._languages)))
        found = [
            Related(text, *edges[item], f"wikidata:{item}", language)
            for item, language, text in labels
            if item in edges and text.casefold() != term.casefold()
        ]
        return best_first(found, limit)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, query: dict[str, str]) -> dict[str, Any]:
        """An answer that is an object without an error.

        Raises:
            GraphError: there is none.
        """
        parts = urlsplit(self._endpoint)
        query |= {"format": "json", "maxlag": "5"}
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
        data = self._client.get(url)
        if not isinstance(data, dict):
            msg = f"{self._endpoint} doesn't answer as Wikidata does"
            raise Unreadable(msg)
        if "error" in data:
            error = data["error"]
            info = error.get("info") if isinstance(error, dict) else error
            msg = f"{self._endpoint} answers: {str(info)[:200]}"
            raise Unreachable(msg)
        return data


def _entities(term: str, language: str) -> dict[str, str]:
    return {
        "action": "wbsearchentities",
        "search": term,
        "language": language,
        "type": "item",
        "limit": "7",
    }


def _having(properties: Sequence[str], item: str, limit: int) -> dict[str, str]:
    return {
        "action": "query",
        "list": "search",
        "srsearch": "haswbstatement:" + "|".join(f"{one}={item}" for one in properties),
        "srnamespace": "0",
        "srlimit": str(min(limit, BATCH)),
        "srprop": "",
    }


def _get(items: Sequence[str], what: str, languages: Sequence[str] = ()) -> dict[str, str]:
    query = {"action": "wbgetentities", "ids": "|".join(items), "props": what}
    return query | ({"languages": "|".join(languages)} if languages else {})


def parse_search(data: dict[str, Any], term: str) -> list[str]:
    """Items whose label or alias is the term itself, in its order; disambiguation pages aside.

    Raises:
        Unreadable: the answer is not Wikidata's.
    """
    found = []
    for entry in _list(data, "search"):
        try:
            item, text = entry["id"], entry["match"]["text"]
            described = str(entry.get("description", ""))
        except (KeyError, TypeError, AttributeError):
            continue
        if not _is_item(item) or not isinstance(text, str) or "disambiguation" in described:
            continue
        if set(forms(text, "en")) & set(forms(term, "en")):
            found.append(item)
    return list(dict.fromkeys(found))


def parse_hits(data: dict[str, Any]) -> list[str]:
    """Items of a search.

    Raises:
        Unreadable: the answer is not MediaWiki's.
    """
    query = data.get("query")
    if not isinstance(query, dict):
        msg = "Wikidata's answer has no query"
        raise Unreadable(msg)
    titles = [entry.get("title") for entry in _list(query, "search") if isinstance(entry, dict)]
    return list(dict.fromkeys(title for title in titles if _is_item(title)))


def parse_claims(data: dict[str, Any], item: str) -> dict[str, list[str]]:
    """Property → items that ``item`` names there; deprecated statements aside.

    Raises:
        Unreadable: the answer is not Wikidata's.
    """
    try:
        claims = data["entities"][item]["claims"]
        found: dict[str, list[str]] = {}
        for property_ in UP:
            for claim in claims.get(property_, []):
                value = claim["mainsnak"].get("datavalue", {}).get("value", {})
                other = value.get("id") if isinstance(value, dict) else None
                if claim.get("rank") != "deprecated" and _is_item(other):
                    found.setdefault(property_, []).append(other)
    except (KeyError, TypeError, AttributeError) as err:
        msg = f"Wikidata's answer has no claims of {item}: {type(err).__name__}"
        raise Unreadable(msg) from err
    return found


def parse_labels(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(item, language, label) of all items that have one.

    Raises:
        Unreadable: the answer is not Wikidata's.
    """
    try:
        return [
            (item, language, text)
            for item, entity in data["entities"].items()
            for language, label in dict(entity.get("labels", {})).items()
            if isinstance(label["value"], str) and (text := clean_term(label["value"]))
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        msg = f"Wikidata's answer has no labels: {type(err).__name__}"
        raise Unreadable(msg) from err


def _list(data: dict[str, Any], name: str) -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list):
        msg = f"Wikidata's answer has no list {name!r}"
        raise Unreadable(msg)
    return found


def _is_item(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and ITEM.fullmatch(value) is not None
