"""Machine-readable reservations against training: read, never guessed; deny wins.

Four vocabularies, each parsed into :class:`Rule` s on paths:

* Content-Signal in robots.txt (contentsignals.org, 2025): ``ai-train=no``;
* Content-Usage in robots.txt and headers (IETF AIPREF drafts attach-05, vocab-08): ``train-ai=n``;
* TDMRep (W3C community group, 2024-05-10): header, ``<meta>``, ``/.well-known/tdmrep.json``;
* RSL 1.0 (rslstandard.org, 2025-12): ``License:`` in robots.txt, ``<link rel=license>``, header.

``X-Robots-Tag`` and meta robots are in ``optout``. Everything here is hostile text: nothing
raises, and a reservation that can't be read reserves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

RSL_TYPE = "application/rsl+xml"
EVERYTHING = "/"
MAX_RULES = 10_000
TRAINING = frozenset({"all", "ai-all", "ai-train"})
"""RSL usages that training falls under."""
PAYABLE = frozenset({"free", "attribution", ""})
"""RSL payment types that nobody has to pay: the licence of a picture names its author."""
ASSIGNMENT = re.compile(r"([a-z-]+)\s*=\s*\"?([a-z0-9]+)\"?", re.IGNORECASE)
LINK = re.compile(r"<([^>]*)>([^,<]*)")


@dataclass(frozen=True)
class Rule:
    """Whether paths that match are reserved against training; ``evidence`` is what said so."""

    path: str
    reserved: bool
    evidence: str


@dataclass(frozen=True)
class RobotsSignals:
    """What a robots.txt says on training: rules, and the URLs of RSL licences."""

    rules: tuple[Rule, ...] = ()
    licences: tuple[str, ...] = ()


def refusal(path: str, rules: Iterable[Rule]) -> str:
    """Evidence that ``path`` is reserved; empty where it isn't.

    The most specific rule decides, as in robots.txt; of equal ones the reserving. ``*``
    matches anything and a final ``$`` the end (RFC 9309, 2.2.3).
    """
    matching = [rule for rule in rules if _matches(rule.path, path)]
    if not matching:
        return ""
    best = max(matching, key=lambda rule: (len(rule.path), rule.reserved))
    return best.evidence if best.reserved else ""


def robots_signals(text: str, token: str, url: str) -> RobotsSignals:
    """Content-Signal, Content-Usage and License lines for ``token`` and for everybody.

    A signal for everybody binds a robot that has a group of its own too.
    """
    rules: list[Rule] = []
    licences: list[str] = []
    agents: set[str] = set()
    in_rules = False
    for line in text.splitlines():
        name, colon, value = line.partition("#")[0].strip().partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            agents = set() if in_rules else agents
            in_rules = False
            agents.add(value.lower())
            continue
        if name == "license":  # of the site, whichever group it stands in
            licences.append(urljoin(url, value))
            continue
        in_rules = True
        if name in {"content-signal", "content-usage"} and (not agents or agents & {"*", token}):
            path, said = _usage(name, value)
            if said is not None:
                rules.append(Rule(path, said, f"{name.title()}: {value[:200]} in {url}"))
    return RobotsSignals(tuple(rules[:MAX_RULES]), tuple(dict.fromkeys(licences))[:10])


def tdmrep_rules(body: bytes, url: str) -> tuple[Rule, ...]:
    """Rules of ``/.well-known/tdmrep.json``; a file that can't be read reserves everything."""
    broken = (Rule(EVERYTHING, reserved=True, evidence=f"{url} can't be read as TDMRep"),)
    try:
        entries: Any = json.loads(body)
    except (ValueError, RecursionError):
        return broken
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        return broken
    return tuple(
        Rule(
            str(entry.get("location") or EVERYTHING)[:2000],
            _reserved(entry.get("tdm-reservation")),
            f"tdm-reservation: {entry.get('tdm-reservation')!s:.20} in {url}",
        )
        for entry in entries[:MAX_RULES]
    )


def rsl_rules(body: bytes, url: str) -> tuple[Rule, ...]:
    """Rules of an RSL document; one that can't be read reserves everything.

    A ``content`` is open to training if one of its licences permits it, doesn't prohibit it,
    and asks for no payment.
    """
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        return (Rule(EVERYTHING, reserved=True, evidence=f"{url} can't be read as RSL"),)
    rules = []
    for content in root.iterfind(".//{*}content"):
        open_ = any(_permits(licence) for licence in content.iterfind("{*}license"))
        path = urlsplit(urljoin(url, content.get("url") or EVERYTHING)).path or EVERYTHING
        rules.append(Rule(path, not open_, f"RSL licence {url} on {path[:200]}"))
    return tuple(rules[:MAX_RULES])


def header_refusal(headers: Mapping[str, Sequence[str]]) -> str:
    """Evidence in a response's headers (names in lower case) that it is reserved; else empty."""
    for value in headers.get("tdm-reservation", ()):
        if _reserved(value):
            return f"header tdm-reservation: {value[:20]}"
    for name in ("content-usage", "content-signal"):
        for value in headers.get(name, ()):
            if _usage(name, value)[1]:
                return f"header {name}: {value[:200]}"
    return ""


def meta_refusal(metas: Iterable[tuple[str, str]]) -> str:
    """Evidence in ``<meta name= content=>`` pairs that the page is reserved; else empty.

    TDMRep's meta speaks for the page, not for images linked from it: the crawl takes none
    from a reserved page all the same.
    """
    for name, content in metas:
        if name.strip().lower() == "tdm-reservation" and _reserved(content):
            return f"meta tdm-reservation: {content[:20]}"
    return ""


def rsl_links(headers: Mapping[str, Sequence[str]], url: str) -> Iterator[str]:
    """URLs of RSL licences in ``Link`` headers."""
    for value in headers.get("link", ()):
        for target, parameters in LINK.findall(value):
            lower = parameters.lower()
            if "license" in lower and RSL_TYPE in lower:
                yield urljoin(url, target.strip())


def _permits(licence: Any) -> bool:
    permits, prohibits = (
        {word for found in licence.iterfind(f"{{*}}{name}") for word in _usages(found)}
        for name in ("permits", "prohibits")
    )
    restricted = any(found.get("type") == "usage" for found in licence.iterfind("{*}permits"))
    payments = {found.get("type", "") for found in licence.iterfind("{*}payment")}
    if prohibits & TRAINING or not payments <= PAYABLE:
        return False
    return not restricted or bool(permits & TRAINING)


def _usages(element: Any) -> list[str]:
    if element.get("type") != "usage":
        return []
    return re.split(r"[\s,]+", (element.text or "").strip().lower())


def _usage(name: str, value: str) -> tuple[str, bool | None]:
    """Path and whether training is reserved; None where the line says nothing of it."""
    path, rest = EVERYTHING, value
    if value.startswith(("/", "*")):
        path, _, rest = value.partition(" ")
    key, no = ("ai-train", "no") if name == "content-signal" else ("train-ai", "n")
    said = {k.lower(): v.lower() for k, v in ASSIGNMENT.findall(rest)}
    if key not in said:
        return path, None
    return path, said[key] == no


def _reserved(value: Any) -> bool:
    """TDMRep's 1; anything but a plain 0 is taken for it."""
    return str(value).strip() != "0"


def _matches(pattern: str, path: str) -> bool:
    end = pattern.endswith("$")
    parts = [re.escape(part) for part in pattern.removesuffix("$").split("*")]
    if len(parts) > 20:  # a pattern made to be slow reserves what it may have meant
        return True
    expression = ".*?".join(parts) + ("$" if end else "")
    return re.match(expression, path, re.DOTALL) is not None
