"""Follows what the evaluation of the attempt before advises about single images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_factory.sanitize.captions import NO_CAPTION, Caption, advised_caption
from lora_factory.sanitize.items import Item, dropped

if TYPE_CHECKING:
    from lora_factory.contracts.evaluation import Advice
    from lora_factory.sanitize.parts import AuditLog

log = logging.getLogger(__name__)


def drop_advised(
    items: Sequence[Item], gone: set[int], advice: Advice, least: int, audit: AuditLog
) -> None:
    """Add the images that advice names to ``gone``, as long as ``least`` are left.

    After the copies are out: the copy of a bad image must not take its place.
    """
    named = {item.sha256: item for item in advice.items if item.do == "drop"}
    if not named:
        return
    for index, item in enumerate(items):
        why = named.get(item.record.sha256)
        if why is None or index in gone:
            continue
        if len(items) - len(gone) <= least:
            log.warning("advice to drop %s is not followed: %d images are needed", why, least)
            continue
        gone.add(index)
        audit.append(dropped(why.sha256, f"advised_{why.reason}", why.detail))


def advised_captions(advice: Advice) -> dict[str, Caption]:
    """sha256 → the caption that advice gives an image, or none in place of a wrong one."""
    return {
        item.sha256: advised_caption(item.text) or NO_CAPTION
        for item in advice.items
        if item.do == "recaption"
    }


def followed_advice(
    advice: Advice, kept: Iterable[str], reasons: Mapping[str, int], note: str
) -> tuple[str, ...]:
    """What advice changed, for the report.

    Args:
        advice: of the evaluation before.
        kept: sha256 of the images that it left.
        reasons: how many were dropped, by reason.
        note: what came of the share of badly aligned pairs to drop.
    """
    gone = {reason: n for reason, n in reasons.items() if reason.startswith("advised_")}
    told = [f"dropped {count} images: {reason}" for reason, count in sorted(gone.items())]
    here = set(kept) if advice.items else set()
    renamed = [i for i in advice.items if i.do == "recaption" and i.sha256 in here]
    for what, count in (
        ("captioned {} images anew, by name", sum(bool(item.text) for item in renamed)),
        ("took the wrong captions of {} images away", sum(not item.text for item in renamed)),
    ):
        if count:
            told.append(what.format(count))
    if advice.drop_alignment_percentile:
        told.append(f"worst {advice.drop_alignment_percentile:g}% of alignment: {note}")
    return tuple(told)
