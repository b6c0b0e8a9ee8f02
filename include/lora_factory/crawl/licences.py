"""Licence links → SPDX-like ids. What can't be told apart is unknown, never allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

UNKNOWN = "unknown"
CREATIVE_COMMONS = re.compile(
    r"/licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)(?:/[a-z]{2,3})?(?:/(?:deed|legalcode)[\w.-]*)?/?"
)
PUBLIC_DOMAIN = re.compile(r"/publicdomain/(zero|mark)/1\.0(?:/(?:deed|legalcode)[\w.-]*)?/?")
# host without www → path pattern → id
KNOWN: dict[str, dict[str, str]] = {
    "opensource.org": {
        r"/licen[sc]es?/mit(?:-license)?(?:\.php)?/?": "MIT",
        r"/licen[sc]es?/apache-2\.0(?:\.php)?/?": "Apache-2.0",
    },
    "mit-license.org": {r"/?": "MIT"},
    "apache.org": {r"/licenses/license-2\.0(?:\.txt|\.html)?/?": "Apache-2.0"},
    "spdx.org": {
        r"/licenses/mit(?:\.html)?": "MIT",
        r"/licenses/apache-2\.0(?:\.html)?": "Apache-2.0",
        r"/licenses/cc0-1\.0(?:\.html)?": "CC0-1.0",
        r"/licenses/cc-by-4\.0(?:\.html)?": "CC-BY-4.0",
        r"/licenses/cc-by-sa-4\.0(?:\.html)?": "CC-BY-SA-4.0",
        r"/licenses/pddl-1\.0(?:\.html)?": "PDDL-1.0",
    },
    "opendatacommons.org": {r"/licenses/pddl(?:/1-0|/1\.0)?/?": "PDDL-1.0"},
}


@dataclass(frozen=True)
class Licence:
    """A licence and where it was read."""

    id: str = UNKNOWN
    evidence: str = ""


def licence_id(url: str) -> str:
    """SPDX-like id of a licence's URL; ``unknown`` for any other. Host and path must both fit."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return UNKNOWN
    if parts.scheme not in {"http", "https"}:
        return UNKNOWN
    path = parts.path.lower() or "/"
    if host == "creativecommons.org":
        return _creative_commons(path)
    known = KNOWN.get(host, {}).items()
    return next((name for pattern, name in known if re.fullmatch(pattern, path)), UNKNOWN)


def _creative_commons(path: str) -> str:
    if found := CREATIVE_COMMONS.fullmatch(path):
        return f"CC-{found[1].upper()}-{found[2]}"
    if found := PUBLIC_DOMAIN.fullmatch(path):
        return "CC0-1.0" if found[1] == "zero" else "PDM-1.0"
    return UNKNOWN


def settle(urls: Iterable[str]) -> Licence:
    """The licence that all of an image's licence links agree on; else unknown."""
    found = list(dict.fromkeys(urls))
    ids = {licence_id(url) for url in found}
    evidence = " ".join(found)[:300]
    return Licence(ids.pop(), evidence) if len(ids) == 1 else Licence(UNKNOWN, evidence)


def refusal(licence: str, allowed: Iterable[str], *, allow_unknown: bool) -> str:
    """Reason code why an image of this licence can't be used; empty where it can."""
    if licence == UNKNOWN:
        return "" if allow_unknown else "licence_unknown"
    return "" if licence in set(allowed) else "licence_not_allowed"
