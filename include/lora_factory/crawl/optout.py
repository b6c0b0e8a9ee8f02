"""Opt-outs in headers and markup: deny wins.

``X-Robots-Tag`` and ``<meta name=robots>`` with noai, noimageai, noml (DeviantArt, 2022),
noindex and noimageindex. robots.txt is read in ``middlewares.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NO_PAGE = frozenset({"noai", "noml", "noindex", "none"})
NO_IMAGE = NO_PAGE | {"noimageai", "noimageindex"}
NO_FOLLOW = frozenset({"nofollow", "none"})
# Directives of the header's grammar that carry a colon themselves and name no robot.
VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})


def product_token(user_agent: str) -> str:
    """The name robots.txt and X-Robots-Tag address (RFC 9309, 2.2.1), in lower case."""
    found = re.match(r"[A-Za-z_-]+", user_agent)
    return found.group().lower() if found else "*"


def header_directives(values: Iterable[str], token: str) -> frozenset[str]:
    """Directives of ``X-Robots-Tag`` headers that are for everybody or for ``token``."""
    found: set[str] = set()
    for value in values:
        agent = ""
        for part in value.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in VALUED:
                agent, directive = name.strip(), rest.strip()
            else:
                directive = part.strip()
            if directive and agent in {"", "*", token}:
                found.add(directive)
    return frozenset(found)


def meta_directives(metas: Iterable[tuple[str, str]], token: str) -> frozenset[str]:
    """Directives of ``<meta name= content=>`` pairs whose name is ``robots`` or ``token``."""
    return frozenset(
        part.strip()
        for name, content in metas
        if name.strip().lower() in {"robots", token}
        for part in content.lower().split(",")
        if part.strip()
    )
