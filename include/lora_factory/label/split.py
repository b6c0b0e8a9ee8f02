"""Which images are held out, so that nothing of them is trained on.

Never on both sides: near-duplicates; pictures of one page, as long as the page is small beside
the validation part; of a larger page, pictures with the same words. A page that is larger must
be parted, or one page would be all that is held out (tells how well that page is learned, not
the style) or nothing could be; the report names such pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
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
"""A page stays whole if so many like it fit into the validation part."""


@dataclass(frozen=True)
class Split:
    """``validation[i]``: whether item i is held out; ``groups`` never part.

    ``parted``: addresses of pages with pictures on both sides, in their items' order.
    """

    validation: NDArray[np.bool_]
    groups: int
    parted: tuple[str, ...]


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
    told: Sequence[tuple[str, str]],
    share: float,
    seed: int,
) -> Split:
    """Hold out about ``share`` of the items, whole groups only, decided by ``seed``.

    Groups are tried in the order of a hash of their first name: the same items are held out
    whatever order they come in, and what an older set held out stays held out when items are
    added, but for the few at the edge. An incremental run would otherwise be judged on
    images its parent was trained on.

    At least 4 items are held out of 24 or more, at least 1 otherwise, and never more than
    half. All items in one group: nothing can be held out.

    Args:
        names: n item names (sha256), which decide an item's place.
        duplicates: n group numbers.
        told: n pairs of page address and subject; an empty address is a page of its own.
        share: in (0, 0.5).
        seed: another seed, another order.
    """
    count = len(duplicates)
    fewest = 4 if count >= 24 else 1
    wanted = max(fewest, round(share * count))
    groups = _groups(list(duplicates), told, wanted)
    order = sorted(groups, key=lambda group: _place(seed, min(names[item] for item in group)))
    held: list[int] = []
    for group in order:
        if len(held) + len(group) <= wanted:
            held.extend(group)
    for group in sorted((g for g in order if g[0] not in set(held)), key=len):
        if len(held) < fewest and 2 * (len(held) + len(group)) <= count:
            held.extend(group)
    chosen = np.zeros(count, dtype=bool)
    chosen[held] = True
    return Split(chosen, len(groups), _parted(told, chosen.tolist()))


def _groups(
    duplicates: Sequence[int], told: Sequence[tuple[str, str]], wanted: int
) -> list[list[int]]:
    """Items that stay together: whole pages where they are small, else what is alike in them."""
    pages = [page for page, _ in told]
    keys: list[Hashable] = [""] * len(pages)
    for group in _members(_joined(duplicates, pages)):
        small = len(group) * PAGES_IN_VALIDATION <= wanted
        for item in group:
            keys[item] = pages[item] if small else _alike(*told[item])
    return _members(_joined(duplicates, keys))


def _alike(page: str, subject: str) -> Hashable:
    """What two pictures of a parted page share when they say the same."""
    return (page, subject) if page and subject else ""


def _parted(told: Sequence[tuple[str, str]], held: Sequence[bool]) -> tuple[str, ...]:
    sides: dict[str, set[bool]] = {}
    for (page, _), out in zip(told, held, strict=True):
        sides.setdefault(page, set()).add(out)
    return tuple(page for page, found in sides.items() if page and len(found) == 2)


def _place(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _members(labels: Sequence[int]) -> list[list[int]]:
    """Group numbers → lists of item indices, in order of first appearance."""
    found: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        found.setdefault(label, []).append(item)
    return list(found.values())


def _joined(duplicates: Sequence[int], keys: Sequence[Hashable]) -> list[int]:
    """Groups that share a key become one (union–find over groups); an empty key is none."""
    parent = {group: group for group in duplicates}

    def top(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[Hashable, int] = {}
    for group, key in zip(duplicates, keys, strict=True):
        if key:
            parent[top(group)] = top(first.setdefault(key, group))
    return [top(group) for group in duplicates]
