"""Follows what the evaluation of the attempt before advises about single images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_factory.sanitize.captions import Caption, advised_caption
from lora_factory.sanitize.items import Item, dropped

if TYPE_CHECKING:
    from lora_factory.contracts.evaluation import Advice
    from lora_factory.contracts.records import AuditRecord


def advised_away(items: Sequence[Item], advice: Advice, audit: list[AuditRecord]) -> list[Item]:
    """The items that advice leaves; the others' files are removed and their reasons noted."""
    named = {item.sha256: item for item in advice.items if item.do == "drop"}
    kept = []
    for item in items:
        sha256 = item.record.sha256
        if sha256 not in named:
            kept.append(item)
            continue
        item.file.unlink()
        why = named[sha256]
        audit.append(dropped(sha256, f"advised_{why.reason}", why.detail))
    return kept


def advised_captions(items: Sequence[Item], advice: Advice) -> dict[str, Caption]:
    """sha256 → the caption that advice gives an image that is here."""
    here = {item.record.sha256 for item in items}
    given = {
        item.sha256: advised_caption(item.text)
        for item in advice.items
        if item.do == "recaption" and item.sha256 in here
    }
    return {sha256: caption for sha256, caption in given.items() if caption is not None}


def followed_advice(
    advice: Advice, kept: Sequence[str], audit: Sequence[AuditRecord], note: str
) -> tuple[str, ...]:
    """What advice changed, for the report.

    Args:
        advice: of the evaluation before.
        kept: sha256 of the images that it left.
        audit: of this stage.
        note: what came of the share of badly aligned pairs to drop.
    """
    gone = Counter(line.reason for line in audit if line.reason.startswith("advised_"))
    told = [f"dropped {count} images: {reason}" for reason, count in sorted(gone.items())]
    here = set(kept)
    renamed = [i for i in advice.items if i.do == "recaption" and i.sha256 in here]
    if renamed:
        told.append(f"captioned {len(renamed)} images anew, by name")
    if advice.drop_alignment_percentile:
        told.append(f"worst {advice.drop_alignment_percentile:g}% of alignment: {note}")
    return tuple(told)
