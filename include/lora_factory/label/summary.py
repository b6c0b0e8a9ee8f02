"""What a dataset holds and what was left out, counted once for the card and the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lora_factory.contracts.records import AuditRecord, DatasetRecord
from lora_factory.label.taxonomy import UNKNOWN, Taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_HOSTS = 20
_OF = re.compile(r"\bof ([0-9a-f]{64})\b")
COPIES = frozenset({"exact_duplicate", "near_duplicate", "semantic_duplicate", "text_duplicate"})


@dataclass(frozen=True)
class Drop:
    """Items that one stage dropped for one reason; ``examples`` in the audit's order."""

    stage: str
    what: str
    reason: str
    count: int
    examples: tuple[AuditRecord, ...]


@dataclass(frozen=True)
class Node:
    """A theme: items that have it as their narrowest (``own``), and with those below (``all``)."""

    name: str
    own: int
    all: int
    below: tuple[Node, ...]


@dataclass(frozen=True)
class Cluster:
    """Pictures that look alike: those kept, and copies that were dropped (both sha256)."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many pictures are alike."""
        return len(self.kept) + len(self.dropped)


@dataclass(frozen=True)
class Summary:
    """Counts; mappings are the most frequent first."""

    licences: dict[str, int]
    hosts: dict[str, int]
    drops: tuple[Drop, ...]
    tree: tuple[Node, ...]
    unlabelled: int
    lengths: tuple[tuple[int, int], ...]
    """(words of a caption, items), without gaps."""
    clusters: tuple[Cluster, ...]

    def dropped(self, what: str) -> int:
        """How many images (or pages) no stage let pass."""
        return sum(drop.count for drop in self.drops if drop.what == what)


def summarise(
    records: Sequence[DatasetRecord],
    audit: Sequence[AuditRecord],
    groups: NDArray[np.intp] | Sequence[int],
    taxonomy: Taxonomy,
    examples: int,
) -> Summary:
    """Count.

    Args:
        records: the n items of the dataset.
        audit: verdicts of all stages.
        groups: n group numbers of near-duplicates.
        taxonomy: of the labels.
        examples: of each reason, at most.
    """
    hosts = Counter(_host(record.source) for record in records)
    most = dict(hosts.most_common(MOST_HOSTS))
    if rest := hosts.total() - sum(most.values()):
        most["others"] = rest
    narrowest = Counter(r.labels.theme[0] if r.labels.theme else UNKNOWN for r in records)
    return Summary(
        licences=dict(Counter(record.licence for record in records).most_common()),
        hosts=most,
        drops=_drops(audit, examples),
        tree=_tree(narrowest, taxonomy),
        unlabelled=narrowest[UNKNOWN],
        lengths=_lengths(records),
        clusters=_clusters(records, audit, groups),
    )


def _host(source: str) -> str:
    try:
        return urlsplit(source).hostname or "no host (a folder)"
    except ValueError:
        return "unreadable URL"


def _drops(audit: Sequence[AuditRecord], examples: int) -> tuple[Drop, ...]:
    """In the order of the stages, the most frequent reason first."""
    found: dict[tuple[str, str, str], list[AuditRecord]] = {}
    for line in audit:
        if line.verdict == "dropped":
            found.setdefault((line.stage, line.what, line.reason), []).append(line)
    stages = list(dict.fromkeys(stage for stage, _, _ in found))
    return tuple(
        Drop(stage, what, reason, len(lines), tuple(lines[:examples]))
        for (stage, what, reason), lines in sorted(
            found.items(), key=lambda pair: (stages.index(pair[0][0]), -len(pair[1]), pair[0])
        )
    )


def _tree(counts: Mapping[str, int], taxonomy: Taxonomy) -> tuple[Node, ...]:
    def below(parent: str | None) -> tuple[Node, ...]:
        nodes = []
        for name, theme in taxonomy.themes.items():
            if theme.parent == parent:
                children = below(name)
                own = counts.get(name, 0)
                total = own + sum(child.all for child in children)
                if total:
                    nodes.append(Node(name, own, total, children))
        return tuple(sorted(nodes, key=lambda node: (-node.all, node.name)))

    return below(None)


def _lengths(records: Sequence[DatasetRecord]) -> tuple[tuple[int, int], ...]:
    counts = Counter(len(record.text.split()) for record in records)
    if not counts:
        return ()
    return tuple((words, counts[words]) for words in range(min(counts), max(counts) + 1))


def _clusters(
    records: Sequence[DatasetRecord],
    audit: Sequence[AuditRecord],
    groups: NDArray[np.intp] | Sequence[int],
) -> tuple[Cluster, ...]:
    """Groups of two or more, largest first: near-duplicates kept together, and their copies."""
    members: dict[int, list[str]] = {}
    group_of: dict[str, int] = {}
    for record, group in zip(records, groups, strict=True):
        members.setdefault(int(group), []).append(record.sha256)
        group_of[record.sha256] = int(group)
    copies: dict[int, list[str]] = {}
    for line in audit:
        found = _OF.search(line.detail) if line.reason in COPIES else None
        if found is not None and found[1] in group_of:
            copies.setdefault(group_of[found[1]], []).append(line.item)
    clusters = [
        Cluster(tuple(kept), tuple(copies.get(group, ()))) for group, kept in members.items()
    ]
    return tuple(sorted((c for c in clusters if c.size > 1), key=lambda c: (-c.size, c.kept[0])))
