"""Prompt rules: words that block a prompt, read through simple obfuscation.

Blocks explicit sexual content, sexualised minors, and gore or self-harm. It reads what a
plain-spoken or lightly disguised prompt says (full-width and look-alike letters, accents,
leetspeak, spaced, cut, punctuated, masked or stretched words); it knows English only and no
meaning beyond words, so it is one layer, not the whole guard: ``guard/meaning.py`` is the
other. Words are in ``rules.toml``; ``make bench ONLY=guard`` prints precision and recall.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

RULES = Path(__file__).with_name("rules.toml")
MAX_LENGTH = 2000
"""Characters of the longest prompt that is read; a longer one is blocked, not skimmed."""

# Letters of other scripts that look like Latin ones, after casefolding.
_LOOKALIKES = str.maketrans(
    "авеёзіјкмнорсѕтухһԁԛԝɡıαβεηικνορτυχωϲℓƨ" + "øłđħғǫᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "abeezijkmhopcstyxhdqwgiabenikvoptuxwcls" + "oldhfqabcdefghijklmnoprstuvwyz",
)
# Letters in filled circles and squares, and as parts of flags; NFKD leaves them alone.
for _start in (0x1F150, 0x1F170, 0x1F1E6):
    _LOOKALIKES |= {_start + index: ord("a") + index for index in range(26)}
_LEET = str.maketrans("0134578@$!+|€£¡", "oieastbasitleli")
_LEET_L = str.maketrans("1!|", "lll")
# Digits and signs that may stand for a letter stay inside a word; all else separates.
_WORD = re.compile(r"[a-z0-9@$!+|€£¡]+")
# A word with letters masked: "p*rn", "f***".
_MASKED = re.compile(r"[a-z]+(?:[*#]+[a-z]*)+")
_AGE = re.compile(r"\b(?:[1-9]|1[0-7]) ?(?:yo|y o|yrs? old|years? old|year olds?)\b")


@dataclass(frozen=True)
class Verdict:
    """Whether a prompt may be used; ``rule`` names what blocked it (empty when allowed)."""

    allowed: bool
    rule: str = ""


@dataclass(frozen=True)
class _Rules:
    allowed: re.Pattern[str]
    sexual: re.Pattern[str]
    unless: tuple[tuple[str, re.Pattern[str], re.Pattern[str]], ...]
    always: re.Pattern[str]
    who: re.Pattern[str]
    sexualised: re.Pattern[str]
    violence: re.Pattern[str]
    disguised: frozenset[str]
    cut: frozenset[str]


def check_prompt(text: str) -> Verdict:
    """Judge a prompt; ``rule`` is one of ``minors``, ``sexual``, ``violence``, ``length``.

    The most serious rule that matches is named. The prompt itself is never logged here.
    """
    if len(text) > MAX_LENGTH:
        return Verdict(allowed=False, rule="length")
    rules = _rules()
    written = set(re.findall(r"[a-z0-9]+", text.casefold()))
    hidden = _masked(text, rules.disguised)
    found: set[str] = set()
    for form in _forms(text):
        clean = rules.allowed.sub(" ", form)
        words = clean.split()
        inexcusable = {
            rule
            for rule, terms, excuse in rules.unless
            if terms.search(clean) and not excuse.search(clean)
        }
        sexual = (
            hidden
            or "sexual" in inexcusable
            or rules.sexual.search(clean) is not None
            or not rules.disguised.isdisjoint(set(words) - written)
            or any(a + b in rules.cut for a, b in pairwise(words))
        )
        young = rules.who.search(clean) or _AGE.search(clean)
        if rules.always.search(clean) or (young and (sexual or rules.sexualised.search(clean))):
            found.add("minors")
        found |= inexcusable
        if sexual:
            found.add("sexual")
        if rules.violence.search(clean):
            found.add("violence")
    for rule in ("minors", "sexual", "violence"):
        if rule in found:
            return Verdict(allowed=False, rule=rule)
    return Verdict(allowed=True)


def _masked(text: str, words: frozenset[str]) -> bool:
    """Whether one of ``words`` is written with letters masked."""
    for token in _MASKED.findall(normalise(text)):
        pattern = re.compile(re.sub("[*#]", "[a-z]", token))
        if any(pattern.fullmatch(word) for word in words):
            return True
    return False


def normalise(text: str) -> str:
    """Compatibility forms, case, accents, look-alikes and characters without a look undone."""
    text = unicodedata.normalize("NFKD", text).casefold()
    kept = (char for char in text if unicodedata.category(char) not in {"Mn", "Me", "Cf", "Cs"})
    return "".join(kept).translate(_LOOKALIKES)


def _forms(text: str) -> Iterator[str]:
    """Every reading of ``text`` to match: words joined by single spaces."""
    plain = normalise(text)
    for chunks in (_split(plain), _joined(plain)):
        for words in (chunks, [_unleet(word) for word in chunks], _unleet_l(chunks)):
            letters = [re.sub(r"[^a-z0-9]", "", word) for word in words]
            line = " ".join(word for word in letters if word)
            yield line
            # Stretched words: "nuuude" is "nude", "boooobs" is "boobs".
            yield re.sub(r"([a-z])\1{2,}", r"\1", line)
            yield re.sub(r"([a-z])\1{2,}", r"\1\1", line)


def _split(text: str) -> list[str]:
    """Words; three or more single characters in a row ("n u d e") are one word."""
    words: list[str] = []
    run: list[str] = []
    for word in _WORD.findall(text):
        if len(word) == 1:
            run.append(word)
            continue
        words += _close(run)
        run = []
        words.append(word)
    return words + _close(run)


def _close(run: list[str]) -> list[str]:
    return ["".join(run)] if len(run) >= 3 else run


def _joined(text: str) -> list[str]:
    """Words with the punctuation inside taken out: "po-rn", "n.u.d.e"."""
    return ["".join(_WORD.findall(chunk)) for chunk in text.split()]


def _unleet(word: str) -> str:
    """``s3x`` → ``sex``; numbers without a letter stay numbers."""
    return word.translate(_LEET) if re.search(r"[a-z]", word) else word


def _unleet_l(words: list[str]) -> list[str]:
    return [
        _unleet(word.translate(_LEET_L)) if re.search(r"[a-z]", word) else word for word in words
    ]


@lru_cache(maxsize=1)
def _rules() -> _Rules:
    data = tomllib.loads(RULES.read_text(encoding="utf-8"))
    return _Rules(
        allowed=_pattern(data["allowed"]),
        sexual=_pattern(data["sexual"]["terms"]),
        unless=tuple(
            (one["rule"], _pattern(one["terms"]), _pattern(one["unless"])) for one in data["unless"]
        ),
        always=_pattern(data["minors"]["always"]),
        who=_pattern(data["minors"]["who"]),
        sexualised=_pattern(data["minors"]["sexualised"]),
        violence=_pattern(data["violence"]["terms"]),
        disguised=frozenset(data["sexual"]["disguised"]),
        cut=frozenset(data["sexual"]["cut"]),
    )


def _pattern(terms: Iterable[str]) -> re.Pattern[str]:
    parts = (re.escape(term.removesuffix("*")) + ("[a-z]*" * term.endswith("*")) for term in terms)
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b")
