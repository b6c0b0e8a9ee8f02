"""The words of pieces of HTML that stand where no page does: in attributes, JSON and API answers.

Descriptions come double-escaped, cut off and nested wrongly; BeautifulSoup reads what there is.
Whole pages are not parsed here: see ADR 8.
"""

from __future__ import annotations

import re

from bs4 import BeautifulSoup

MAX_FRAGMENT = 20_000  # characters that are read
MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>|&#?\w{1,31};")
UNSEEN = ["script", "style", "template"]


def squeeze(text: str) -> str:
    """One space between words; lone surrogates and NUL bytes gone."""
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\x00", " ")
    return " ".join(text.split())


def plain(value: str) -> str:
    """The text of a piece of HTML, however broken; of what is none, itself."""
    value = squeeze(value[:MAX_FRAGMENT])  # lxml refuses lone surrogates
    if not MARKUP.search(value):
        return value
    soup = BeautifulSoup(f"<p>{value}", "lxml")  # so that it is never taken for a path
    for part in soup(UNSEEN):
        part.decompose()
    return squeeze(soup.get_text(" "))
