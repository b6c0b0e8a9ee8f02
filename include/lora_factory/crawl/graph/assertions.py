"""Graph ``conceptnet_local``: a part of ConceptNet 5 in one SQLite file, made from its dump.

Data: ``conceptnet-assertions-5.7.0.csv.gz`` (34 million lines, tab-separated: URI, relation, start,
end, JSON with the weight), read by ``python -m lora_factory topics import``; what is kept are the
edges between words of the wanted languages whose relation says something about pictures
(:data:`~lora_factory.crawl.graph.conceptnet.RELATIONS`). Licence: CC BY-SA 4.0, which the file
carries in its table ``about``. Limits and authentication: none; no request is made.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from lora_factory.contracts.expansion import Graph
from lora_factory.contracts.progress import Progress
from lora_factory.crawl.graph.base import Absent, Related, Unreadable, best_first, forms
from lora_factory.crawl.graph.conceptnet import (
    RELATIONS,
    Edge,
    Node,
    neighbours,
    parse_node,
    parse_relation,
    parse_weight,
)
from lora_factory.crawl.graph.http import parse_json
from lora_factory.errors import ConfigurationError, DataError

log = logging.getLogger(__name__)

FORMAT = "1"
LICENCE = "CC BY-SA 4.0, ConceptNet 5 (https://conceptnet.io), Speer, Chin and Havasi 2017"
MAX_LINE = 1 << 20
MEGABYTE = 1_000_000
BATCH = 20_000
EDGES = 400
"""Edges of a word that are looked at, the heaviest first."""
FIRST = 1000
"""Lines after which a file without a single edge is taken for another file."""
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE node (id INTEGER PRIMARY KEY, language TEXT, text TEXT);
CREATE TABLE edge (start INTEGER, end INTEGER, relation INTEGER, weight REAL);
CREATE TABLE relation (id INTEGER PRIMARY KEY, name TEXT);
"""
_INDEXES = """
CREATE UNIQUE INDEX node_text ON node (text, language);
CREATE INDEX edge_start ON edge (start, weight);
CREATE INDEX edge_end ON edge (end, weight);
"""


def parse_assertion(line: bytes) -> Edge:
    """One line of the dump.

    Raises:
        Unreadable: it is none; nothing else.
    """
    if len(line) > MAX_LINE:
        msg = f"a line of more than {MAX_LINE} bytes"
        raise Unreadable(msg)
    try:
        _, relation, start, end, about = line.decode("utf-8").rstrip("\r\n").split("\t")
    except ValueError as err:
        msg = f"no assertion: {line[:60]!r}"
        raise Unreadable(msg) from err
    data = parse_json(about.encode(), "an assertion")
    weight = parse_weight(data.get("weight") if isinstance(data, dict) else None)
    return Edge(parse_relation(relation), parse_node(start), parse_node(end), weight)


@dataclass
class Imported:
    """What became of a dump's lines."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> int:
        """All of them."""
        return self.kept + self.dropped.total()

    def table(self) -> str:
        """One line: how many lines were left out for which reason."""
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self.dropped.items()))
        return f"{self.kept} of {self.lines} lines kept ({reasons or 'none left out'})"


def import_dump(
    dump: Path, out: Path, languages: Sequence[str], on_bytes: Callable[[int, str], None]
) -> Imported:
    """Read the official dump into ``out``, which is there whole or not at all.

    Args:
        dump: ``conceptnet-assertions-*.csv.gz``; uncompressed works too.
        out: SQLite file, replaced once the new one is complete.
        languages: of both ends of an edge.
        on_bytes: told how many bytes of the dump were read since, and a note.

    Raises:
        DataError: the dump is missing, damaged, or something else.
        ConfigurationError: ``out`` can't be written.
    """
    part = out.with_name(f".{out.name}.{uuid4().hex[:8]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_TABLES}")
            found = _fill(connection, dump, frozenset(languages), on_bytes)
            if not found.kept:
                msg = f"{dump} has no edge to keep: {found.table()}; is it ConceptNet's dump?"
                raise DataError(msg)
            _finish(connection, dump, languages, found.kept)
        part.replace(out)
    except (sqlite3.Error, OSError) as err:
        msg = f"{out} can't be written: {err}"
        raise ConfigurationError(msg) from err
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return found


def _fill(
    connection: sqlite3.Connection,
    dump: Path,
    languages: frozenset[str],
    on_bytes: Callable[[int, str], None],
) -> Imported:
    found = Imported()
    wanted = {f"/r/{name}".encode(): at for at, name in enumerate(RELATIONS)}
    starts = tuple(f"/c/{language}/".encode() for language in sorted(languages))
    names = [(at, name) for at, name in enumerate(RELATIONS)]
    connection.executemany("INSERT INTO relation VALUES (?, ?)", names)
    ids: dict[Node, int] = {}
    connection.execute("BEGIN")
    for lines, read in _batches(dump):
        edges = []
        for line in lines:
            edge = _sift(line, wanted, starts, found)
            if edge is not None:
                start = ids.setdefault(edge.start, len(ids))
                end = ids.setdefault(edge.end, len(ids))
                edges.append((start, end, wanted[f"/r/{edge.relation}".encode()], edge.weight))
        connection.executemany("INSERT INTO edge VALUES (?, ?, ?, ?)", edges)
        if found.lines >= FIRST and found.dropped["unreadable"] > found.lines / 2:
            msg = f"{dump} is not ConceptNet's dump of assertions: {found.table()}"
            raise DataError(msg)
        on_bytes(read, f"{found.kept} edges kept")
    rows = ((id_, node.language, node.text) for node, id_ in ids.items())
    connection.executemany("INSERT INTO node VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    return found


def _sift(
    line: bytes, wanted: dict[bytes, int], starts: tuple[bytes, ...], found: Imported
) -> Edge | None:
    """An edge to keep; otherwise the reason is counted. Most lines fall before they are parsed."""
    fields = line.split(b"\t", 4)
    if len(fields) == 5 and fields[1].startswith(b"/r/"):
        if fields[1] not in wanted:
            found.dropped["relation"] += 1
            return None
        if not (fields[2].startswith(starts) and fields[3].startswith(starts)):
            found.dropped["language"] += 1
            return None
    try:
        edge = parse_assertion(line)
    except Unreadable as err:
        if not found.dropped["unreadable"]:
            log.warning("a line is left out: %s", err)
        found.dropped["unreadable"] += 1
        return None
    if not edge.start.text or not edge.end.text or edge.start == edge.end:
        found.dropped["not_a_term"] += 1
        return None
    found.kept += 1
    return edge


def _batches(dump: Path) -> Iterator[tuple[list[bytes], int]]:
    """Lines, and how many bytes of the file were read for them.

    Raises:
        DataError: the file is missing, or its compressed data damaged or cut.
    """
    try:
        with dump.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            before = 0
            with io.BufferedReader(stream, 1 << 20) as text:
                while True:
                    lines: list[bytes] = []
                    while len(lines) < BATCH and (line := text.readline(MAX_LINE + 1)):
                        lines.append(line)
                    if not lines:
                        return
                    yield lines, raw.tell() - before
                    before = raw.tell()
    except (OSError, EOFError, zlib.error) as err:
        msg = f"dump {dump} can't be read to its end: {err}; download it again"
        raise DataError(msg) from err


def _finish(
    connection: sqlite3.Connection, dump: Path, languages: Sequence[str], edges: int
) -> None:
    about = {
        "format": FORMAT,
        "made_from": f"{dump.name}, {dump.stat().st_size} bytes",
        "edges": str(edges),
        "languages": json.dumps(sorted(languages)),
        "licence": LICENCE,
    }
    connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
    log.info("indexing")
    connection.executescript(_INDEXES)


def progress_of(dump: Path) -> Progress:
    """Progress in MB of a dump.

    Raises:
        DataError: it isn't there.
    """
    try:
        return Progress("topics import", max(1, dump.stat().st_size // MEGABYTE), "MB")
    except OSError as err:
        msg = f"dump {dump} can't be read: {err.strerror}"
        raise DataError(msg) from err


class LocalConceptNet:
    """ConceptNet's edges in a file.

    Args:
        path: made by ``topics import``.
        language: of the terms that are asked for.

    Raises:
        Absent: it isn't there, or it doesn't hold the language.
        Unreadable: it is something else, or damaged.
    """

    name: Graph = "conceptnet_local"

    def __init__(self, path: Path, language: str) -> None:
        self._path, self._language = path, language
        about = self.about(path)
        if f'"{language}"' not in about.get("languages", ""):
            msg = f"{path} holds the languages {about.get('languages')}, not {language!r}"
            raise Absent(msg)

    @staticmethod
    def about(path: Path) -> dict[str, str]:
        """What a file says of itself.

        Raises:
            Absent: it isn't there.
            Unreadable: it is something else, or of another version.
        """
        if not path.is_file():
            msg = f"no file {path}; make it by `python -m lora_factory topics import`"
            raise Absent(msg)
        about: dict[str, str] = dict(_rows(path, "SELECT key, value FROM about"))
        if about.get("format") != FORMAT:
            msg = f"{path} was made by another version; make it again"
            raise Unreadable(msg)
        return about

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """Neighbours of a term.

        Raises:
            Unreadable: the file is damaged.
        """
        found: list[Related] = []
        for form in forms(term, self._language):
            source = f"conceptnet:/c/{self._language}/{form.replace(' ', '_')}"
            found += neighbours(self._edges(form), form, self._language, source)
        return best_first(found, limit)

    def close(self) -> None:
        """Nothing is held open between lookups."""

    def _edges(self, term: str) -> Iterator[Edge]:
        rows = _rows(
            self._path,
            "WITH here AS (SELECT id FROM node WHERE text = ?1 AND language = ?2), edges AS ("
            "SELECT * FROM (SELECT * FROM edge WHERE start IN here ORDER BY weight DESC LIMIT ?3) "
            "UNION SELECT * FROM (SELECT * FROM edge WHERE end IN here ORDER BY weight DESC LIMIT "
            "?3)) SELECT r.name, s.language, s.text, e.language, e.text, weight FROM edges "
            "JOIN node s ON s.id = start JOIN node e ON e.id = edges.end "
            "JOIN relation r ON r.id = relation",
            (term, self._language, EDGES),
        )
        return (Edge(r, Node(sl, st), Node(el, et), w) for r, sl, st, el, et, w in rows)


def _rows(path: Path, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(statement, values).fetchall()
    except sqlite3.Error as err:
        msg = f"{path} is no file of `topics import` ({err}); make it again"
        raise Unreadable(msg) from err
