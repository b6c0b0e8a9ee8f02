"""Spelling of prose: frequent misprints in English sentences, and nothing else.

On captions a corrector changes names more often than it mends mistakes ("a Corgi by Hokusai").
So a word is changed only where everything says misprint: the text is a sentence of English
words, the word is lower-case ASCII of eight letters or more, unknown to the dictionary, no topic
and no part of one, and exactly one frequent word is a single slip of the fingers away: two
letters swapped, one left out or one too many, inside the word. One letter for another is often
another word (edema, enema), and another ending another language (serpente, pumpen).

Of 20,000 words of five other languages, set singly into an English sentence, 16 in 10,000 are
changed, of names in lower case 14, of rare English nouns 20 (about twenty times less than if any
one edit counted); of made misprints of frequent words 39 in 100 are mended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symspellpy import SymSpell

WORDS = 5  # of a sentence, at least
KNOWN = 0.7  # share of its words that must be English
LETTERS = 8
FREQUENT = 1_000_000  # occurrences in the dictionary's corpus (Google Books) of a correction
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
AMERICAN = (
    *(("our", "or"), ("ll", "l"), ("ae", "e"), ("oe", "e"), ("inium", "inum")),
    *(("mming", "ming"), ("mmer", "mer")),
)
"""The dictionary's spelling is British; the other one is no misprint."""
_PLAIN = re.compile(r"[a-z]+")


def spelled(text: str, protected: frozenset[str] = frozenset()) -> str:
    """``text`` with its misprints mended; unchanged where it isn't English prose.

    Args:
        text: a repaired caption.
        protected: words that are right as they are, lower case (:func:`words_of`).
    """
    words = _WORD.findall(text)
    if len(words) < WORDS:
        return text
    known = _dictionary().words
    share = sum(word.lower() in known for word in words) / len(words)
    if share < KNOWN:
        return text
    return _WORD.sub(lambda word: _mended(word.group(), protected), text)


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words of names and topics, lower case."""
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))


def _mended(word: str, protected: frozenset[str]) -> str:
    # A capital may begin a name, another alphabet or a hyphen be another language's.
    if len(word) < LETTERS or not _PLAIN.fullmatch(word) or word in protected:
        return word
    return _correction(word) or word


@lru_cache(maxsize=4096)
def _correction(word: str) -> str | None:
    """The one frequent word a single edit away from an unknown one; None: known, or unclear."""
    from symspellpy import Verbosity

    dictionary = _dictionary()
    if word in dictionary.words:
        return None
    close = [
        found
        for found in dictionary.lookup(word, Verbosity.ALL, max_edit_distance=1)
        if found.count >= FREQUENT and found.term[0] == word[0]
    ]
    # "flowrs": flowers and flows. Only what leaves no doubt.
    if len(close) != 1:
        return None
    term = str(close[0].term)
    american = any(word == term.replace(*pair, 1) for pair in AMERICAN)
    return term if _slip(word, term) and not american else None


def _slip(word: str, term: str) -> bool:
    """Whether two words that one edit parts differ by a slip inside of them."""
    if len(word) != len(term):
        return word[-2:] == term[-2:]
    first = next(at for at, (a, b) in enumerate(zip(word, term, strict=True)) if a != b)
    swapped = word[first : first + 2] == term[first : first + 2][::-1]
    return swapped and first + 2 < len(word)


@lru_cache(maxsize=1)
def _dictionary() -> SymSpell:
    """82,765 English words with their frequencies, from the wheel (MIT)."""
    from symspellpy import SymSpell

    dictionary = SymSpell(max_dictionary_edit_distance=1, prefix_length=7)
    packed = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    with as_file(packed) as file:
        dictionary.load_dictionary(file, term_index=0, count_index=1, encoding="utf-8")
    return dictionary
