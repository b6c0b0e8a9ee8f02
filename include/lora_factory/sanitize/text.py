"""Repair of crawled text (article, 2.1 ``clean_text``).

The article strips every character outside ``[\\w\\s.,;:!?]``, which turns "Crème brûlée –
½ price" into noise and mojibake into different mojibake. Here broken encodings are undone
(ftfy) before anything is taken away, and only what can't be part of a caption goes: markup,
addresses, boilerplate, invisible characters. Spelling is :mod:`lora_factory.sanitize.spelling`'s.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import ftfy

MAX_INPUT = 2000  # characters read; nothing after that is a caption
MAX_TEXT = 300
MAX_ROUNDS = 12
MIN_LETTERS = 2

_CONFIG = ftfy.TextFixerConfig(unescape_html=True, normalization="NFC", explain=False)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]{0,300}>|<!--.{0,300}?-->", re.DOTALL)
_SCRIPT = re.compile(
    r"<(script|style)\b[^<>]{0,300}>.{0,2000}?</\1\b[^<>]{0,20}>", re.DOTALL | re.IGNORECASE
)
_MARKDOWN = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()]{0,300}\)")
_WIKI = re.compile(r"\[\[(?:[^\[\]|]{0,100}\|)*([^\[\]|]{0,200})\]\]|\{\{[^{}]{0,200}\}\}")
_ADDRESS = re.compile(
    r"(?:\b[a-z]{2,8}://|www\.)\S{1,500}|\b[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}"
)
_BOILERPLATE = re.compile(
    r"""\b(?:
      click\ (?:here\b(?:\ to\ (?:enlarge|zoom|view|see|expand|download|open))?
        |to\ (?:enlarge|zoom|view|expand|download))(?:\ (?:this\ |the\ )?(?:image|picture))? |
      (?:tap|hover)\ to\ (?:enlarge|zoom|expand) |
      (?:(?:royalty[- ])?free\ |stock\ ){1,3}(?:photos?|images?|vectors?|illustrations?)(?:\ of)? |
      (?:free\ )?(?:png|svg|vector)\ download | download\ (?:free|now|this)\b[^.,;]{0,30} |
      all\ rights\ reserved | (?:share|pin|follow)\ (?:on|it|us)\b[^.,;]{0,20} |
      advertisement | sponsored | buy\ now | add\ to\ (?:cart|basket|wishlist) |
      read\ more | image\ not\ (?:found|available) |
      (?:image|photo|picture)\ (?:credit|source|by|courtesy)\b[^.;]{0,60} |
      (?:an?\ |the\ )?(?:image|photo|picture|photograph)\ (?:of|showing)
    )\b | (?:©\ ?|\(c\)\ |copyright\ (?=[©\d]|\(c\)|by\ ))[^.;|]{1,60} | ^loading\.*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SIZE = re.compile(r"(\d)\s*[xX*]\s*(\d+)(?:\s*(?:px|pixels?))?\b")
_DASH = re.compile(r"\s*[‐‑‒–—―]+\s*")
_REPEAT = re.compile(r"([!?.,;:_=~*#|+-])\1+")
_EDGE = " \t.,;:!|/\\-–_=~*#>•·»«"
_FILE = re.compile(r"^[\w%-]{1,120}\.(?:png|jpe?g|gif|webp|bmp|svg|tiff?)$", re.IGNORECASE)
_CAMERA = re.compile(
    r"^(?:img|dsc[fn]?|pxl|image|picture|photo|pic|screenshot|screen ?shot|untitled|unnamed|file"
    r"|icon|logo|thumb(?:nail)?|banner|avatar|placeholder|default|null|none|undefined|alt)"
    r"[\s\d._-]*$",
    re.IGNORECASE,
)
_CODE = re.compile(r"^(?:[0-9a-f]{8,}|[0-9a-f-]{32,36}|[\d\W_]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Repaired:
    """A text after repair and the names of the steps that changed it, in order."""

    text: str
    steps: tuple[str, ...] = ()


def repair(text: str) -> Repaired:
    """Repair a crawled text; never raises, and repairing twice changes nothing more.

    The steps run until the text is still (unescaping can lay bare new markup); one that
    won't settle in 12 rounds is no caption and becomes empty. At most 300 characters.
    """
    steps: list[str] = []
    current = text
    if len(current) > MAX_INPUT:
        current = current[:MAX_INPUT]
        steps.append("cut")
    for _ in range(MAX_ROUNDS):
        before = current
        for name, step in STEPS:
            changed = step(current)
            if changed != current and name not in steps:
                steps.append(name)
            current = changed
        if current == before:
            return Repaired(current, tuple(steps))
    return Repaired("", (*steps, "unsettled"))


def usable(text: str) -> bool:
    """True when a repaired text can say what a picture shows: words, no file name or number."""
    letters = sum(char.isalpha() for char in text)
    if letters < MIN_LETTERS or letters < 0.5 * len(text.replace(" ", "")):
        return False
    return not (_CAMERA.match(text) or _CODE.match(text))


def from_file_name(url: str) -> str:
    """``…/red-apple_01.png`` → ``red apple``; empty where the name says nothing."""
    try:
        parts = urlsplit(url)
        name = PurePosixPath(unquote(parts.path)).name
    except ValueError:
        return ""
    if parts.scheme == "data":
        return ""
    words = re.split(r"[\W_]+", PurePosixPath(name).stem)
    text = repair(" ".join(word for word in words if not word.isdigit())).text.lower()
    return text if usable(text) and not any(_CODE.match(word) for word in text.split()) else ""


def sentences(text: str) -> list[str]:
    """The usable sentences or lines of a longer text, repaired, in order."""
    parts = re.split(r"(?<=[.!?])\s+|[\r\n|•]+", text[:MAX_INPUT])
    found = [repair(part).text for part in parts]
    return [part for part in found if usable(part)]


def _surrogates(text: str) -> str:
    # Pairs become the character they mean, lone halves a space.
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("�", " ")


def _mojibake(text: str) -> str:
    return str(ftfy.fix_text(text, _CONFIG))


def _controls(text: str) -> str:
    return "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text)


def _markup(text: str) -> str:
    text = _TAG.sub(" ", _SCRIPT.sub(" ", html.unescape(text)))
    return _WIKI.sub(r"\1", _MARKDOWN.sub(r"\1", text))


def _file_name(text: str) -> str:
    if not _FILE.match(text):
        return text
    return re.sub(r"[\W_]+", " ", unquote(text).rsplit(".", 1)[0])


def _expressions(text: str) -> str:
    """One spelling for sizes, dashes and runs of punctuation."""
    text = _SIZE.sub(r"\1×\2", text)
    return _REPEAT.sub(r"\1", _DASH.sub(lambda dash: _one_dash(dash.group()), text))


def _one_dash(dash: str) -> str:
    return " - " if dash != dash.strip() else "-"


def _space(text: str) -> str:
    return " ".join(text.split()).strip(_EDGE)


def _length(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    head = text[:MAX_TEXT]
    return head.rsplit(" ", 1)[0] if " " in head else head


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("surrogates", _surrogates),
    ("mojibake", _mojibake),
    ("controls", _controls),
    ("markup", _markup),
    ("addresses", lambda text: _ADDRESS.sub(" ", text)),
    ("boilerplate", lambda text: _BOILERPLATE.sub(" ", text)),
    ("file_name", _file_name),
    ("expressions", _expressions),
    ("whitespace", _space),
    ("length", _length),
    ("nfc", lambda text: unicodedata.normalize("NFC", text)),
)
