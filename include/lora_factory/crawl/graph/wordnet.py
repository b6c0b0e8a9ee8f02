"""Graph ``wordnet``: Princeton WordNet's nouns, read from files; no request is made.

Data: the database files of WordNet 3.x (``index.noun``, ``data.noun``, ``noun.exc``, and
``cntlist.rev`` if there) in the folder ``LORA_FACTORY_WORDNET``, by default where Debian's
package ``wordnet-base`` puts them. Licence: WordNet's own, which permits any use with notice.
Limits: English nouns. Authentication: none.

The format is wndb(5WN): both files are sorted text, so a word is found by bisection and a synset
by its byte offset, and nothing is loaded beforehand. Libraries were tried first: ``wn`` reads only
WN-LMF files, which no package ships; ``nltk`` refuses folders outside its own data path, needs a
file ``lexnames`` that Debian leaves out, and takes 3 s to import.

Neighbours are synonyms, kinds at any depth, parts, and the kinds' own class. WordNet has no edge
from *animal* to *penguin* but five (*chordate*, *vertebrate*, *bird*, *aquatic bird*, *seabird*),
of which nobody speaks; so kinds are taken from all levels, those first that people write about:
how often the sense was met in SemCor (``cntlist.rev``), then how few levels down it is.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lora_factory.contracts.expansion import Graph
from lora_factory.crawl.graph.base import (
    BROADER,
    NARROWER,
    PART,
    SAME,
    WHOLE,
    Absent,
    Related,
    Unreadable,
    best_first,
    clean_term,
)

log = logging.getLogger(__name__)

SENSES = 3
"""Meanings of a word that are looked at, the most frequent first."""
LEVELS = 8
TOO_BROAD = 6000
"""Kinds from which on a word says nothing: *animal* has 4,000, *object* 28,000, *entity* 82,000."""
LINE = 200_000
"""Bytes of the longest line; the longest of WordNet 3.0 has 13,000."""
OPTIONAL = ("noun.exc", "cntlist.rev")
PARTS = {"%p": "part", "%s": "substance", "%m": "member"}
SLURS = ("ethnic slur", "disparaging", "derogatory", "offensive", "obscene", "vulgar")
ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("zes", "z"), ("ses", "s"))


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, pointers (symbol, offset) of nouns, and gloss."""

    offset: int
    words: tuple[str, ...]
    keys: tuple[str, ...]
    """Sense keys, by which ``cntlist.rev`` counts."""
    pointers: tuple[tuple[str, int], ...]
    gloss: str

    def to(self, *symbols: str) -> list[int]:
        """Offsets that pointers of these symbols lead to."""
        return [offset for symbol, offset in self.pointers if symbol in symbols]

    @property
    def is_name(self) -> bool:
        """Whether it is one person, place or thing, not a kind."""
        return any(symbol == "@i" for symbol, _ in self.pointers)

    @property
    def offensive(self) -> bool:
        """Whether its gloss says that the word insults."""
        return any(mark in self.gloss for mark in SLURS)


def revision(folder: Path) -> str:
    """Hex sha256 over the files that are read.

    Raises:
        OSError: a needed one is missing.
    """
    whole = hashlib.sha256()
    for name in ("index.noun", "data.noun", "noun.exc", "cntlist.rev"):
        path = folder / name
        if name in OPTIONAL and not path.is_file():
            continue
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def parse_index(line: str) -> tuple[str, tuple[int, ...]]:
    """A line of ``index.noun`` → lemma, offsets of its synsets, most frequent first.

    Raises:
        Unreadable: it is none.
    """
    fields = line.split()
    try:
        lemma, synsets, pointers = fields[0], int(fields[2]), int(fields[3])
        offsets = tuple(int(field) for field in fields[6 + pointers : 6 + pointers + synsets])
    except (IndexError, ValueError) as err:
        msg = f"index.noun has a line that is none: {line[:60]!r}"
        raise Unreadable(msg) from err
    if fields[1] != "n" or len(offsets) != synsets or min(offsets, default=-1) < 0:
        msg = f"index.noun has a line that is none: {line[:60]!r}"
        raise Unreadable(msg)
    return lemma, offsets


def parse_synset(line: str) -> Synset:
    """A line of ``data.noun``.

    Raises:
        Unreadable: it is none.
    """
    head, _, gloss = line.partition("|")
    fields = head.split()
    try:
        file, count = int(fields[1]), int(fields[3], 16)
        words = tuple(fields[4 : 4 + 2 * count : 2])
        ids = [int(field, 16) for field in fields[5 : 5 + 2 * count : 2]]
        at = 4 + 2 * count
        rest = fields[at + 1 : at + 1 + 4 * int(fields[at])]
        pointers = tuple(
            (rest[i], int(rest[i + 1])) for i in range(0, len(rest), 4) if rest[i + 2] == "n"
        )
        offset = int(fields[0])
    except (IndexError, ValueError) as err:
        msg = f"data.noun has a line that is none: {line[:60]!r}"
        raise Unreadable(msg) from err
    if fields[2] != "n" or not words or len(ids) != len(words) or len(rest) % 4 or offset < 0:
        msg = f"data.noun has a line that is none: {line[:60]!r}"
        raise Unreadable(msg)
    keys = tuple(
        f"{word.lower()}%1:{file:02d}:{id_:02d}::" for word, id_ in zip(words, ids, strict=True)
    )
    return Synset(offset, words, keys, pointers, gloss.strip())


class WordNet:
    """WordNet's nouns.

    Args:
        folder: with ``index.noun`` and ``data.noun``.

    Raises:
        Absent: they aren't there.
    """

    name: Graph = "wordnet"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._index, self._data = (_map(folder / f"{kind}.noun") for kind in ("index", "data"))
        except (OSError, ValueError) as err:
            msg = f"no WordNet in {folder}; install wordnet-base or set LORA_FACTORY_WORDNET"
            raise Absent(msg) from err

    def related(self, term: str, limit: int) -> Sequence[Related]:
        """Neighbours of a noun, singular or plural.

        Raises:
            GraphError: the files are damaged.
        """
        senses = [self._synset(offset) for offset in self._senses(term)]
        if term.islower():  # "crane" asks for the bird and the machine rather than for Hart Crane
            senses = [one for one in senses if not one.is_name] or senses
        found: list[Related] = []
        for rank, synset in enumerate(senses[:SENSES]):
            sure = 1.0 / (1 + 0.25 * rank)
            found += self._around(synset, sure, limit)
        return best_first([one for one in found if one.term.casefold() != term.casefold()], limit)

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        self._data.close()

    def _around(self, synset: Synset, sure: float, limit: int) -> Iterator[Related]:
        around = [(synset, "synonym", SAME)]
        around += [(self._synset(to), "broader", BROADER) for to in synset.to("@", "@i")]
        for symbol, what in PARTS.items():
            around += [(self._synset(to), f"{what} of it", PART) for to in synset.to(symbol)]
        around += [(self._synset(to), "whole", WHOLE) for to in synset.to("#p", "#m")]
        kinds = self._kinds(synset, limit)
        around += [(kind, "kind of it", NARROWER * known) for kind, known in kinds]
        for one, relation, worth in around:
            yield from self._named(one, relation, worth * sure, str(synset.offset))

    def _kinds(self, synset: Synset, limit: int) -> list[tuple[Synset, float]]:
        """The ``limit`` best-known kinds, and how well known each is among them, 0.75 to 1.

        None of a synset that has too many.
        """
        level, seen = [synset], {synset.offset}
        found: list[tuple[int, int, Synset]] = []
        for depth in range(1, LEVELS + 1):
            below = [offset for one in level for offset in one.to("~", "~i")]
            new = [offset for offset in dict.fromkeys(below) if offset not in seen]
            seen.update(new)
            if len(seen) > TOO_BROAD:
                return []
            level = [self._synset(offset) for offset in new]
            found += [(-self._count(one), depth, one) for one in level]
        found.sort(key=lambda entry: (entry[0], entry[1], entry[2].offset))
        best = found[:limit]
        return [(one, 1 - 0.25 * at / max(1, len(best))) for at, (_, _, one) in enumerate(best)]

    def _named(
        self, synset: Synset, relation: str, weight: float, meaning: str
    ) -> Iterator[Related]:
        # The words of a synset stand in order of frequency: the first is what people write, the
        # last often Latin.
        for at, word in enumerate(synset.words[: 3 if relation == "synonym" else 1]):
            if term := clean_term(word):
                source = f"wordnet:{synset.offset:08d}-n"
                yield Related(
                    term,
                    relation,
                    weight * 0.9**at,
                    source,
                    offensive=synset.offensive,
                    gloss=synset.gloss.partition(";")[0],
                    meaning=meaning,
                )

    def _senses(self, term: str) -> tuple[int, ...]:
        word = "_".join(term.lower().split())
        for lemma in self._lemmas(word) if word else ():
            line = _find(self._index, f"{lemma} ".encode())
            if line is not None:
                return parse_index(line)[1]
        return ()

    def _lemmas(self, word: str) -> Iterator[str]:
        """The word itself, then singulars it may be the plural of (morphy(7WN), nouns)."""
        yield word
        if (irregular := self._exceptions.get(word)) is not None:
            yield irregular
        for ending, singular in ENDINGS:
            if word.endswith(ending):
                yield word[: -len(ending)] + singular
        if word.endswith("s") and not word.endswith("ss"):
            yield word[:-1]

    @cached_property
    def _exceptions(self) -> dict[str, str]:
        return dict(pair for fields in self._lines("noun.exc") if len(pair := fields[:2]) == 2)

    @cached_property
    def _counts(self) -> dict[str, int]:
        """Sense key → how often the sense was met in SemCor."""
        return {
            fields[0]: int(fields[2])
            for fields in self._lines("cntlist.rev")
            if len(fields) == 3 and "%1:" in fields[0] and fields[2].isdecimal()
        }

    def _count(self, synset: Synset) -> int:
        return sum(self._counts.get(key, 0) for key in synset.keys)

    def _lines(self, name: str) -> Iterator[list[str]]:
        with suppress(FileNotFoundError):
            for line in (self._folder / name).read_text("utf-8", "replace").splitlines():
                yield line.split()

    def _synset(self, offset: int) -> Synset:
        line = self._data[offset : offset + LINE].partition(b"\n")[0]
        found = parse_synset(line.decode("utf-8", "replace"))
        if found.offset != offset:
            msg = f"{self._folder} isn't one version of WordNet: data.noun has nothing at {offset}"
            raise Unreadable(msg)
        return found


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _find(text: mmap.mmap, start: bytes) -> str | None:
    """The line that begins with ``start``, in a file of lines sorted bytewise."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        begin = text.rfind(b"\n", low, middle) + 1 or low
        end = text.find(b"\n", begin)
        end = len(text) if end < 0 else end
        line = text[begin : min(end, begin + LINE)]
        if line.startswith(start):
            return line.decode("utf-8", "replace")
        if line < start:
            low = end + 1
        else:
            high = begin
    return None
