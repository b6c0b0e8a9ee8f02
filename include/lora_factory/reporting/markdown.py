"""Cards: Hugging Face's metadata and Markdown. Words from crawled pages can't become markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

LONGEST = 300
"""Characters of any text in a card."""
SPECIAL = re.compile(r"([\\`*_{}\[\]<>&#|~!$])")
LICENCES = {
    "own": "other",
    "CC0-1.0": "cc0-1.0",
    "PDDL-1.0": "pddl",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "ISC": "isc",
    "Apache-2.0": "apache-2.0",
    "CC-BY-2.0": "cc-by-2.0",
    "CC-BY-3.0": "cc-by-3.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CreativeML-OpenRAIL-M": "creativeml-openrail-m",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
}
"""Licence → Hugging Face's id, the least restrictive first; unlisted ones come after all."""


def licence_rank(name: str) -> int:
    """Place in the order of restriction."""
    order = list(LICENCES)
    return order.index(name) if name in order else len(order)


def licence_id(name: str) -> str:
    """Hugging Face's id of a licence."""
    return LICENCES.get(name, "unknown" if name == "unknown" else "other")


def render_markdown(folder: Path, template: str, **values: Any) -> str:
    """Fill a Markdown template of a stage's folder; every expression is escaped."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=False,  # noqa: S701  (Markdown: ``finalize`` escapes every expression)
        undefined=StrictUndefined,
        finalize=_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code
    return environment.get_template(template).render(**values)


def plain(text: str) -> str:
    """One line of what is printed, at most ``LONGEST`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST]).split())
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def code(value: str) -> Markup:
    """A code span, also inside a table."""
    text = plain(value).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{text}`")  # noqa: S704  (Markdown, inside a code span)


def literal(value: str) -> Markup:
    """A Python string literal inside a fenced block."""
    return Markup(repr(plain(value).replace("`", "'")))  # noqa: S704  (inside a fenced block)


def _markdown(value: Any) -> Any:
    """A template's expression as text that can't be markup."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return SPECIAL.sub(r"\\\1", plain(value)).replace("://", ":\u200b//")
