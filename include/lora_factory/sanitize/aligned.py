"""Pairs of picture and caption that don't belong together: captioned anew, or dropped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from lora_factory.sanitize.items import dropped
from lora_factory.sanitize.scored import CHUNK, described, put_captions

if TYPE_CHECKING:
    from lora_factory.sanitize.parts import AuditLog
    from lora_factory.sanitize.scored import Roles, Scored

log = logging.getLogger(__name__)


class Aligned(NamedTuple):
    """What was done about alignment, and why."""

    note: str
    percentile: float = 0.0
    floor: float | None = None
    recaptioned: int = 0


def drop_unaligned(
    scored: Scored,
    gone: set[int],
    percentile: float,
    floor: float | None,
    roles: Roles,
    audit: AuditLog,
) -> Aligned:
    """Add pairs that don't belong together to ``gone``, unless a captioner finds better words.

    Args:
        scored: n items; their captions may be replaced.
        gone: indices of items that are out already.
        percentile: worst share, %: what is poor depends on the scorer and the set.
        floor: cosine of this scorer below which no pair is right; None: there is none.
        roles: scorer and captioner.
        audit: of this stage.
    """
    agreed = scored.agreement
    if not agreed.trusted:
        note = (
            f"the scorer can't tell real pairs from shuffled ones here (AUC from "
            f"{agreed.low:.2f}, {agreed.pairs} pairs): nothing was dropped"
        )
        log.info("alignment: %s", note)
        return Aligned(note)
    judged = {
        index: cosine
        for index in range(len(scored.names))
        if index not in gone
        and _judged(scored, index)
        and (cosine := scored.cosine(index)) is not None
    }
    apart = misaligned(judged, percentile=percentile, floor=floor)
    mended = _mended(scored, apart, judged, floor, roles)
    for index, reason in apart.items():
        if index not in mended:
            gone.add(index)
            audit.append(dropped(scored.names[index], reason, f"cosine {judged[index]:.3f}"))
    note = (
        f"the scorer tells real pairs from shuffled ones (AUC from {agreed.low:.2f}): "
        f"the worst {len(apart) - len(mended)} of {len(judged)} were dropped"
    )
    if mended:
        note += f", {len(mended)} got a better caption"
    return Aligned(note, percentile, floor, len(mended))


def _mended(
    scored: Scored,
    apart: Mapping[int, str],
    judged: Mapping[int, float],
    floor: float | None,
    roles: Roles,
) -> set[int]:
    """Those whose picture the captioner describes better than any that was found poor."""
    better = max((judged[index] for index in apart), default=0.0)
    limit = max(better, floor if floor is not None else -1.0)
    poor, mended = list(apart), set()
    for start in range(0, len(poor), CHUNK):
        for index, caption in described(
            scored.parts, poor[start : start + CHUNK], roles.captioner
        ).items():
            old = scored.parts.texts[index].copy()
            put_captions(scored.parts, {index: caption}, roles.scorer)
            if float(scored.parts.images[index] @ scored.parts.texts[index]) > limit:
                scored.captions[index] = caption
                mended.add(index)
            else:
                scored.parts.texts[index] = old
    return mended


def misaligned(
    cosines: Mapping[int, float], *, percentile: float, floor: float | None
) -> dict[int, str]:
    """Index → reason code of the pairs to drop, of n pairs' cosines.

    The worst ``percentile`` % of them, rounded down: of 20 pairs, 2% drops none. And
    all below ``floor``, however many.
    """
    ranked = sorted(cosines, key=lambda index: (cosines[index], index))
    worst = ranked[: int(len(ranked) * percentile / 100)]
    below = [index for index in ranked if floor is not None and cosines[index] < floor]
    reasons = dict.fromkeys(worst, "worst_alignment")
    return reasons | dict.fromkeys(below, "below_alignment_floor")


def _judged(scored: Scored, index: int) -> bool:
    """Whether alignment may drop this item.

    Not composed captions: the scorer chose them itself. Not replayed items: they were judged
    when they were new, and a share taken anew every night would wear them down.
    """
    return scored.captions[index].source != "composed" and not scored.replayed[index]
