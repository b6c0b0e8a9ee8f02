"""Training captions: ``<subject>, <trigger> style``.

The subject comes first: the embedded base draws "red apple, nefat style" as a red apple and
"nefat style, red apple" as something pale, since an unknown word at the front shifts all that
a text encoder reads after it. A subject has at most 12 words, so that the trigger is never
what the encoder cuts. Style words stay out: what all captions share belongs to the trigger,
else the style is learned under the word "icon" and a prompt without it loses it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lora_factory.contracts.records import CleanRecord, Labels

MAX_WORDS = 12
POOR_SOURCES = frozenset({"nearby", "title", "none"})
"""Where a text comes from that is about the page rather than the picture."""

_MEDIUM = (
    r"(?:icon|emoji|image|picture|photo|photograph|drawing|illustration|clip ?art|logo|symbol)"
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S*|\S+@\S+\.\S+", re.IGNORECASE)
_LEAD = re.compile(
    rf"^(?:(?:an?|the|this|these|some|free|simple|cute|vector|line|flat)\s+)*"
    rf"(?:{_MEDIUM}s?(?:\s+{_MEDIUM}s?)*\s+(?:of|for|showing|with|depicting)\s+|"
    rf"(?:close[- ]?up|view)\s+of\s+)?(?:(?:an?|the)\s+)?"
)
_TAIL = re.compile(
    rf"(?:\s*[,(]?\s*(?:(?:drawn|painted|done|made|rendered)\s+)?in\s+(?:the|an?)\s+"
    rf"(?:\w+\s+){{0,3}}style\b.*|\s+(?:{_MEDIUM}s?|svg|png|vector|free download|download))$"
)
_SITE = re.compile(r"\s+[|•»]\s+.*$|\s+[-–—]\s+[^-–—]{0,40}$")
_SENTENCE = re.compile(r"[.!?;:]\s")
_EDGE = " \t,.;:!?…-–—_/\\|()[]{}<>\"'*#~=+"


def subject_of(text: str, trigger: str = "") -> str:
    """What a found text says the picture shows; may be empty.

    Lower case, first sentence, at most 12 words, without addresses, site names, the trigger,
    and what is said about the picture rather than in it ("icon of", "in the style of …").
    """
    text = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text)
    text = _ADDRESS.sub(" ", " ".join(text.split()))
    text = re.sub(r"[<>{}\[\]|()]+", lambda found: " | " if found[0] == "|" else " ", text)
    text = " ".join(text.split()).lower()
    text = _SITE.sub("", text)
    if trigger:
        text = re.sub(rf"\b{re.escape(trigger)}\b(?:\s+style\b)?", " ", text)
    text = _SENTENCE.split(" ".join(text.split()).strip(_EDGE), maxsplit=1)[0].strip(_EDGE)
    text = _trim(text, _LEAD)
    text = _trim(text, _TAIL)
    return _cut(text)


def _trim(text: str, pattern: re.Pattern[str]) -> str:
    """Take boilerplate off until none is left, unless nothing would be left."""
    while True:
        shorter = pattern.sub("", text).strip(_EDGE)
        if not shorter or shorter == text:
            return text
        text = shorter


def _cut(text: str) -> str:
    """At most 12 words, ending at a comma where one is far enough in."""
    words = text.split()
    if len(words) <= MAX_WORDS:
        return text
    head = " ".join(words[:MAX_WORDS])
    clause = head.rpartition(",")[0]
    return (clause if len(clause.split()) >= MAX_WORDS // 2 else head).strip(_EDGE)


def is_poor(record: CleanRecord, subject: str, floor: float | None) -> bool:
    """True when a found text should give way to a composed one (advice ``recaption``).

    Args:
        record: the image with its text.
        subject: what :func:`subject_of` made of the text.
        floor: cosine under which image and text disagree; None where the scorer can't tell.
    """
    disagree = floor is not None and record.alignment is not None and record.alignment < floor
    return not subject or record.text_source in POOR_SOURCES or disagree


def compose_subject(labels: Labels, fallback: str) -> str:
    """A subject from labels: up to three keywords and the narrowest theme."""
    theme = labels.theme[:1]
    known = {word for name in labels.theme for word in name.split()}
    words = [word for word in labels.keywords if word not in known]
    return ", ".join([*words[:3], *theme]) or fallback


def caption(trigger: str, subject: str) -> str:
    """The training caption, and the prompt that asks for the style."""
    return f"{subject}, {trigger} style"


def theme_phrase(themes: Sequence[str]) -> str:
    """``animals``, ``animals and food``."""
    return " and ".join(themes[:2])
