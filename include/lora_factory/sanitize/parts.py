"""What was found of each picture by itself, shard by shard, on disk.

A part is a folder: ``images/``, ``items.jsonl`` (:class:`Item`), ``audit.jsonl``, and arrays of
one row an item: ``bits.npy`` and ``thumbs.npy`` (fingerprints), ``images.npy`` and ``texts.npy``
(the scorer's joint space; texts are zero where the page has none), ``meanings.npy`` (the text
embedder's). Several parts are read as one sequence; items and arrays stay on disk, so that
memory doesn't grow with the dataset.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lora_factory.contracts.records import AuditRecord, read_jsonl, write_jsonl
from lora_factory.imaging.hashes import BITS, Fingerprints
from lora_factory.sanitize.items import Item

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.models.roles import Vectors

ARRAYS = ("bits", "thumbs", "images", "texts", "meanings")


@dataclass(frozen=True)
class Rows:
    """Arrays of n rows for n items, see the module; ``hashes`` are 64 hex digits."""

    hashes: Sequence[str]
    thumbs: Sequence[NDArray[np.uint8]]
    images: Vectors
    texts: Vectors
    meanings: Vectors


def write_part(
    folder: Path, items: Sequence[Item], rows: Rows, audit: Iterable[AuditRecord]
) -> None:
    """Write all of a part but its pictures."""
    write_jsonl(folder / "items.jsonl", items)
    write_jsonl(folder / "audit.jsonl", audit)
    prints = Fingerprints.stack(rows.hashes, rows.thumbs)
    values: tuple[NDArray[Any], ...] = (
        prints.bits,
        prints.thumbs,
        rows.images,
        rows.texts,
        rows.meanings,
    )
    for name, value in zip(ARRAYS, values, strict=True):
        np.save(folder / f"{name}.npy", value, allow_pickle=False)


class Items(Sequence[Item]):
    """Items of several parts, read from disk when they are asked for."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [part / "items.jsonl" for part in parts]
        starts = [_lines(file) for file in self._files]
        self._file = np.repeat(np.arange(len(parts)), [len(each) for each in starts])
        self._start = np.concatenate([np.zeros(0, dtype=np.int64), *starts])

    def __len__(self) -> int:
        return len(self._file)

    def __iter__(self) -> Iterator[Item]:
        for file in self._files:
            yield from read_jsonl(file, Item)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        with self._files[int(self._file[at])].open("rb") as lines:
            lines.seek(int(self._start[at]))
            return Item.model_validate(json.loads(lines.readline()))

    def file(self, at: int, sha256: str) -> Path:
        """The picture of item ``at``."""
        return self._files[int(self._file[at])].parent / "images" / f"{sha256}.png"


def _lines(file: Path) -> NDArray[np.int64]:
    """Where each line begins, bytes."""
    with file.open("rb") as lines:
        lengths = np.fromiter((len(line) for line in lines), dtype=np.int64)
    return np.cumsum(lengths) - lengths


@dataclass(frozen=True)
class Parts:
    """n items and their rows."""

    items: Items
    prints: Fingerprints
    images: Vectors
    texts: Vectors
    meanings: Vectors


def read_parts(parts: Sequence[Path], scratch: Path) -> Parts:
    """Several parts as one; their arrays are joined in ``scratch``, not in memory."""
    bits, thumbs, images, texts, meanings = (
        _joined([part / f"{name}.npy" for part in parts], scratch / f"{name}.npy")
        for name in ARRAYS
    )
    prints = Fingerprints(bits.reshape(-1, BITS // 8), thumbs.reshape(-1, 3 * BITS))
    return Parts(Items(parts), prints, images, texts, meanings)


def _joined(files: Sequence[Path], target: Path) -> NDArray[Any]:
    """The arrays one after another, as a memory map; changes don't reach the parts."""
    arrays = [np.load(file, mmap_mode="c", allow_pickle=False) for file in files]
    if len(arrays) == 1:
        return np.asarray(arrays[0])
    shape = (sum(len(each) for each in arrays), *arrays[0].shape[1:])
    joined = np.lib.format.open_memmap(target, mode="w+", dtype=arrays[0].dtype, shape=shape)
    start = 0
    for each in arrays:
        joined[start : start + len(each)] = each
        start += len(each)
    return np.asarray(joined)


class AuditLog:
    """Audit lines of one run of the stage, on disk, counted by reason."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reasons: Counter[str] = Counter()
        file.write_text("", encoding="utf-8")

    def extend(self, lines: Iterable[AuditRecord]) -> None:
        """Add lines."""
        with self.file.open("a", encoding="utf-8") as out:
            for line in lines:
                self.reasons[line.reason] += 1
                out.write(json.dumps(line.model_dump(mode="json")) + "\n")

    def append(self, line: AuditRecord) -> None:
        """Add a line."""
        self.extend([line])

    def table(self) -> str:
        """Reasons and counts, the most frequent first."""
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
