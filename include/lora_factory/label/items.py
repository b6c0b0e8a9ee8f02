"""The clean artifact's items, and what is seen of their pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.contracts.records import CleanRecord, read_jsonl
from lora_factory.errors import ArtifactError, DataError
from lora_factory.label.look import Looks, look

if TYPE_CHECKING:
    from lora_factory.contracts.stage import StageContext
    from lora_factory.models.roles import ImageTextScorer


@dataclass(frozen=True)
class Items:
    """The n items that are kept, in the clean artifact's order."""

    records: tuple[CleanRecord, ...]
    looks: Looks
    seen: int
    dropped: dict[str, str]


def read_items(ctx: StageContext, scorer: ImageTextScorer) -> Items:
    """Read the clean artifact and look at its pictures.

    Raises:
        ArtifactError: ``records.jsonl`` is missing or damaged.
        DataError: fewer than ``min_images`` are left.
    """
    folder = ctx.inputs["clean"].path
    try:
        records = list(read_jsonl(folder / "records.jsonl", CleanRecord))
    except (OSError, ValueError) as err:
        msg = f"{folder / 'records.jsonl'} can't be read; sanitize again"
        raise ArtifactError(msg) from err
    unique = {record.sha256: record for record in records}
    _check_enough(len(unique), len(records), {}, ctx)
    looks, dropped = look(tuple(unique.values()), folder, scorer, ctx)
    kept = tuple(record for sha256, record in unique.items() if sha256 not in dropped)
    _check_enough(len(kept), len(records), dropped, ctx)
    return Items(kept, looks, len(records), dropped)


def _check_enough(left: int, seen: int, dropped: dict[str, str], ctx: StageContext) -> None:
    if left < ctx.settings.min_images:
        table = ", ".join(
            f"{reason} {n}" for reason, n in sorted(Counter(dropped.values()).items())
        )
        msg = (
            f"{left} of {seen} images are left, a dataset needs {ctx.settings.min_images} "
            f"(dropped here: {table or 'none'}); crawl more or loosen the filters"
        )
        raise DataError(msg)
