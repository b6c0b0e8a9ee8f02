"""Which images are held out: nothing held out has a near-duplicate among what is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.imaging.hashes import Fingerprints
    from lora_factory.models.roles import Vectors

NEAR_COSINE = 0.95
NEAR_BITS = 48
"""Of 256. Two views must agree: a scorer that can't read a style calls everything alike
(96% of pairs of the demo's icons lie above cosine 0.55, dog and pizza at 0.99), and hashes
alone are fooled by a shared frame. No two of those icons pass both; the closest differ in
58 bits."""
BLOCK = 512
PAGES_IN_VALIDATION = 4
"""Pages stay whole only if at least so many fit into the validation part: a validation part
that is one or two pages tells how well those pages are learned, not the style."""


@dataclass(frozen=True)
class Split:
    """``validation[i]``: whether item i is held out; ``groups`` never part."""

    validation: NDArray[np.bool_]
    groups: int
    by_page: bool


def near_duplicates(vectors: Vectors, prints: Fingerprints) -> NDArray[np.intp]:
    """Single-link groups of near-duplicates.

    Args:
        vectors: n×d, unit rows.
        prints: of the same n images.

    Returns:
        n group numbers, 0 to groups − 1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(vectors)
    columns = np.arange(count)
    rows_found, columns_found = [], []
    for start in range(0, count, BLOCK):
        rows = columns[start : start + BLOCK]
        alike = vectors[rows] @ vectors.T >= NEAR_COSINE
        alike &= prints.hamming_to(rows, columns) <= NEAR_BITS
        row, column = np.nonzero(alike)
        rows_found.append(row + start)
        columns_found.append(column)
    row, column = np.concatenate(rows_found), np.concatenate(columns_found)
    graph = coo_array((np.ones(len(row), dtype=bool), (row, column)), shape=(count, count))
    found: NDArray[np.intp] = connected_components(graph, directed=False)[1].astype(np.intp)
    return found


def split(
    names: Sequence[str],
    duplicates: Sequence[int] | NDArray[np.intp],
    pages: Sequence[str],
    share: float,
    seed: int,
) -> Split:
    """Hold out about ``share`` of the items, whole groups only, decided by ``seed``.

    Groups are tried in the order of a hash of their first name: the same items are held out
    whatever order they come in, and what an older set held out stays held out when items are
    added, but for the few at the edge. An incremental run would otherwise be judged on
    images its parent was trained on.

    Groups are near-duplicates; and pages as well, where each is small enough that at least
    four of them fit. At least 4 items are held out of 24 or more, at least 1 otherwise, and
    never more than half. All items in one group: nothing can be held out.

    Args:
        names: n item names (sha256), which decide an item's place.
        duplicates: n group numbers.
        pages: n page addresses; an empty one is a page of its own.
        share: in (0, 0.5).
        seed: another seed, another order.
    """
    count = len(duplicates)
    wanted = max(4 if count >= 24 else 1, round(share * count))
    groups = _members(list(duplicates))
    whole = _members(_joined(list(duplicates), pages))
    by_page = len(whole) > 1 and max(map(len, whole)) * PAGES_IN_VALIDATION <= wanted
    groups = whole if by_page else groups
    order = sorted(groups, key=lambda group: _place(seed, min(names[item] for item in group)))
    held: list[int] = []
    for group in order:
        if len(held) + len(group) <= wanted:
            held.extend(group)
    fewest = 4 if count >= 24 else 1
    for group in sorted((g for g in order if g[0] not in set(held)), key=len):
        if len(held) < fewest and 2 * (len(held) + len(group)) <= count:
            held.extend(group)
    chosen = np.zeros(count, dtype=bool)
    chosen[held] = True
    return Split(chosen, len(groups), by_page)


def _place(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _members(labels: Sequence[int]) -> list[list[int]]:
    """Group numbers → lists of item indices, in order of first appearance."""
    found: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        found.setdefault(label, []).append(item)
    return list(found.values())


def _joined(duplicates: Sequence[int], pages: Sequence[str]) -> list[int]:
    """Groups that share a page become one (union–find over groups)."""
    parent = {group: group for group in duplicates}

    def top(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[str, int] = {}
    for group, page in zip(duplicates, pages, strict=True):
        if page:
            parent[top(group)] = top(first.setdefault(page, group))
    return [top(group) for group in duplicates]
