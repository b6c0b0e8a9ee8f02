from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knowledge_graphs import EDGES, answer, assertion, write_dump
from lora_factory.crawl.graph import wikidata
from lora_factory.crawl.graph.assertions import LocalConceptNet, import_dump, parse_assertion
from lora_factory.crawl.graph.base import Absent, GraphError, Unreadable, clean_term
from lora_factory.crawl.graph.conceptnet import ConceptNet, Edge, Node, parse_edges, parse_node
from lora_factory.crawl.graph.http import parse_json
from lora_factory.errors import ConfigurationError, DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from((
    *("edges", "rel", "start", "end", "weight", "@id", "/r/IsA", "/c/en/owl"),
    *("search", "id", "match", "text", "description", "query", "title"),
    *("entities", "Q1", "claims", "P31", "P279", "P361", "mainsnak", "datavalue", "value", "rank"),
    *("labels", "en", "language"),
))
LIKE = st.recursive(
    JSON | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)


def test_one_line_of_the_dump() -> None:
    line = assertion("IsA", "/c/en/polar_bear/n/wn/animal", "/c/en/bear", 2.5)
    assert parse_assertion(line) == Edge("IsA", Node("en", "polar bear"), Node("en", "bear"), 2.5)


@given(st.binary(max_size=200))
@example(b"a\tb\tc\td\te")
@example(b"a\t/r/IsA\t/c/en/a\t/c/en/b\t" + b"[" * 5000)
@example(b'a\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": 1e999}')
@example(b'a\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": true}')
@example(b'a\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": -1}')
@example(b'a\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": ' + b"9" * 5000 + b"}")
@example(b'\xff\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": 1}')
def test_a_line_is_an_edge_or_unreadable(line: bytes) -> None:
    try:
        edge = parse_assertion(line)
    except Unreadable:
        return
    assert 0 < edge.weight < 1e6


@given(st.lists(st.text(max_size=30), min_size=5, max_size=5))
def test_any_five_fields(fields: list[str]) -> None:
    with contextlib.suppress(Unreadable):
        parse_assertion("\t".join(fields).encode("utf-8", "surrogatepass"))


@given(LIKE)
def test_any_json_is_an_answer_or_unreadable(data: Any) -> None:
    parsers = (
        lambda: parse_edges(data, "url"),
        lambda: wikidata.parse_search(data if isinstance(data, dict) else {}, "owl"),
        lambda: wikidata.parse_hits(data if isinstance(data, dict) else {}),
        lambda: wikidata.parse_claims(data if isinstance(data, dict) else {}, "Q1"),
        lambda: wikidata.parse_labels(data if isinstance(data, dict) else {}),
        lambda: parse_node(data),
    )
    for parse in parsers:
        with contextlib.suppress(Unreadable):
            parse()


@given(st.binary(max_size=100))
@example(b"NaN")
@example(b"[" * 100_000)
@example(b"9" * 10_000)
def test_any_bytes_are_json_or_unreadable(body: bytes) -> None:
    with contextlib.suppress(Unreadable):
        parse_json(body, "url")


@given(st.text(max_size=100))
def test_a_clean_term_stays_as_it_is(text: str) -> None:
    found = clean_term(text)
    assert clean_term(found) == found
    found.encode()  # no lone surrogate
    assert "\n" not in found
    assert len(found) <= 60


def test_the_apis_own_answers() -> None:
    edges = parse_edges(answer("/c/en/bird?limit=100"), "url")
    names = {(edge.relation, edge.start.text, edge.end.text) for edge in edges}
    assert ("IsA", "owl", "bird") in names
    assert not any(relation == "ExternalURL" for relation, _, _ in names)
    found = [edge.seen_from("bird", "en", "x") for edge in edges]
    weights = {one.term: (one.relation, round(one.weight, 3)) for one in found if one}
    assert weights == {
        "owl": ("IsA (inverse)", 0.64),
        "penguin": ("IsA (inverse)", 0.533),
        "animal": ("IsA", 0.24),
        "feather": ("HasA", 0.4),
        "vogel": ("Synonym (inverse)", 0.6),
        "nude": ("RelatedTo", 0.25),
    }
    search = "/w/api.php?action=wbsearchentities&search=Birds"
    assert wikidata.parse_search(answer(search), "Birds") == ["Q1"]


# -- the dump in a file


def read(dump: Path, out: Path, languages: tuple[str, ...] = ("en",)) -> Any:
    return import_dump(dump, out, languages, lambda *_: None)


def test_the_dump_becomes_a_graph(tmp_path: Path) -> None:
    out = tmp_path / "new" / "conceptnet.sqlite3"
    notes: list[str] = []
    dump = write_dump(tmp_path / "dump.csv.gz")
    found = import_dump(dump, out, ("en",), lambda _, note: notes.append(note))
    assert (found.kept, found.lines) == (6, len(EDGES))
    assert found.dropped == {"relation": 2, "language": 1}
    assert notes[-1] == "6 edges kept"
    graph = LocalConceptNet(out, "en")
    near = [(one.term, one.relation) for one in graph.related("Bird", 3)]
    assert near == [
        ("owl", "IsA (inverse)"),
        ("penguin", "IsA (inverse)"),
        ("feather", "HasA"),
    ]
    assert not graph.related("fish", 5)
    assert list(out.parent.iterdir()) == [out]


def test_several_languages(tmp_path: Path) -> None:
    out = tmp_path / "c.sqlite3"
    read(write_dump(tmp_path / "dump.csv.gz"), out, ("de", "en"))
    languages = {one.term: one.language for one in LocalConceptNet(out, "en").related("bird", 9)}
    assert languages["vogel"] == "de"
    with pytest.raises(Absent, match="not 'fr'"):
        LocalConceptNet(out, "fr")


def test_bad_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    dump = tmp_path / "dump.csv"  # uncompressed works too
    good = assertion("IsA", "/c/en/owl", "/c/en/bird", 1.0)
    dump.write_bytes(good + b"rubbish\n" + good.replace(b"1.0", b"x") + b"\xff\n")
    found = read(dump, tmp_path / "c.sqlite3")
    assert (found.kept, found.dropped) == (1, {"unreadable": 3})


@pytest.mark.parametrize("kind", ["missing", "cut", "damaged", "other", "empty", "folder"])
def test_what_is_no_dump_leaves_the_old_file_alone(tmp_path: Path, kind: str) -> None:
    dump, out = write_dump(tmp_path / "dump.csv.gz"), tmp_path / "out" / "c.sqlite3"
    read(dump, out)
    before = out.read_bytes()
    data = write_dump(dump, EDGES * 500).read_bytes()
    if kind == "missing":
        dump.unlink()
    elif kind == "folder":
        dump.unlink()
        dump.mkdir()
    else:
        damaged = bytearray(data)
        damaged[len(data) // 2] ^= 0xFF
        spoiled = {"cut": data[: len(data) // 2], "damaged": bytes(damaged), "empty": b""}
        dump.write_bytes(spoiled.get(kind, b"name,topic\nowl,bird\n" * 2000))
    with pytest.raises(DataError, match=r"dump\.csv\.gz"):
        read(dump, out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_a_place_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be written"):
        read(write_dump(tmp_path / "dump.csv.gz"), tmp_path / "file" / "c.sqlite3")


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="topics import"):
        LocalConceptNet(tmp_path / "none", "en")
    other = tmp_path / "other"
    other.write_text(json.dumps({"a": 1}) * 100)
    with pytest.raises(Unreadable, match="make it again"):
        LocalConceptNet(other, "en")
    other.write_bytes(b"")
    with pytest.raises(Unreadable, match="make it again"):
        LocalConceptNet(other, "en")


# -- providers, whatever they are answered


class Saying:
    """A client that answers with the next of some values, whatever is asked."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def get(self, url: str) -> Any:
        assert url.isascii()
        return self._answers.pop() if self._answers else None

    def close(self) -> None:
        """Nothing to close."""


WHOLE = st.fixed_dictionaries(
    {},
    optional={
        "edges": st.lists(LIKE, max_size=3),
        "search": st.lists(
            st.fixed_dictionaries({"id": KEYS, "match": st.just({"text": "bird"})}) | LIKE
        ),
        "query": st.fixed_dictionaries({"search": st.lists(LIKE)}) | LIKE,
        "entities": st.dictionaries(KEYS, LIKE) | LIKE,
        "error": LIKE,
    },
)


@settings(max_examples=40)
@given(answers=st.lists(WHOLE | LIKE, max_size=6), term=st.text(max_size=20))
def test_any_answers_give_related_words_or_a_graph_error(answers: list[Any], term: str) -> None:
    for graph in (
        ConceptNet(Saying([*answers]), "https://c.test", "en"),  # type: ignore[arg-type]
        wikidata.Wikidata(Saying([*answers]), "https://w.test/", "en", ["en"]),  # type: ignore[arg-type]
    ):
        for word in ("bird", clean_term(term)):
            try:
                found = graph.related(word, 3)
            except GraphError:
                continue
            assert len(found) <= 3
            assert all(0 < one.weight <= 1 and clean_term(one.term) for one in found)
