"""raw → clean (article, section 2.1, ``DataSanitizer``).

Check every picture, repair its text, drop copies, drop pairs that don't belong together –
the last only where the scorer shows on this very data that it can tell.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import AuditRecord, CleanRecord, write_jsonl
from lora_factory.contracts.specs import SanitizeSpec
from lora_factory.contracts.stage import StageContext, read_advice
from lora_factory.errors import DataError
from lora_factory.guard.images import image_filter
from lora_factory.guard.meaning import PromptFilter
from lora_factory.guard.protected import open_index
from lora_factory.imaging.agreement import Agreement, agreement
from lora_factory.imaging.hashes import Fingerprints
from lora_factory.models.loaders import image_text_scorer, limit_threads, text_embedder
from lora_factory.models.profiles import load_profile
from lora_factory.sanitize.advised import advised_captions, drop_advised, followed_advice
from lora_factory.sanitize.captions import (
    Caption,
    candidates,
    compose,
    found_caption,
    named_caption,
    vocabulary,
)
from lora_factory.sanitize.dedup import Evidence, Limits, copies
from lora_factory.sanitize.items import (
    Item,
    Source,
    check,
    dropped,
    open_images,
    read_audit,
    sources,
)
from lora_factory.sanitize.report import SanitizeReport
from lora_factory.sanitize.rights import conditions, drop_protected, drop_taken_down
from lora_factory.sanitize.safety import drop_unsafe
from lora_factory.sanitize.text import repair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.models.roles import ImageTextScorer, TextEmbedder

log = logging.getLogger(__name__)

__all__ = ["KIND", "SPEC", "VERSION", "conditions", "roles", "run"]
KIND: Kind = "clean"
VERSION = 2
SPEC = SanitizeSpec
CHUNK = 512  # pictures in memory at a time


class Models(NamedTuple):
    """The roles this stage asks."""

    scorer: ImageTextScorer
    embedder: TextEmbedder


class Scored(NamedTuple):
    """Items with their embeddings, captions and what the scorer thinks of them."""

    items: list[Item]
    images: NDArray[np.float32]
    captions: list[Caption]
    cosines: list[float | None]
    agreement: Agreement


def roles(_spec: SanitizeSpec) -> tuple[str, ...]:
    """Roles whose models decide the result."""
    return ("image_text_scorer", "text_embedder", "captioner", "content_filter")


def run(spec: SanitizeSpec, ctx: StageContext) -> SanitizeReport:
    """Fill ``ctx.out`` with ``images/``, ``records.jsonl`` and ``audit.jsonl``.

    Raises:
        DataError: fewer images than ``settings.min_images`` are left; tells why.
        ModelError: a role's model is missing or damaged.
        ConfigurationError: the index of protected works can't be used.
    """
    audit: list[AuditRecord] = []
    found = sources(ctx)
    items = check(drop_taken_down(found, ctx, audit), spec, ctx, audit)
    _enough(items, found, audit, ctx)
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    models = Models(image_text_scorer(profile), text_embedder(profile))
    rules = image_filter(profile, ctx.settings), PromptFilter(models.embedder)
    items = drop_unsafe(items, *rules, ctx, audit)
    _enough(items, found, audit, ctx)
    protected = open_index(profile, ctx.settings)
    advice = read_advice(ctx)
    scored = _score(items, models, advice, ctx)
    ctx.check_stop()
    gone = _drop_copies(scored, models, spec, audit, ctx.settings.threads or 1)
    repeated = 0
    if protected is not None:
        repeated = drop_protected((items, scored.images), gone, protected, ctx, audit)
    drop_advised(items, gone, advice, ctx.settings.min_images, audit)
    share = max(spec.alignment_percentile, advice.drop_alignment_percentile)
    if len(items) - len(gone) <= ctx.settings.min_images / (1 - share / 100):
        share = spec.alignment_percentile  # advice that would leave too few images
    percentile, note = _drop_unaligned(scored, gone, share, spec.min_alignment, audit)
    kept = [index for index in range(len(items)) if index not in gone]
    _enough([items[index] for index in kept], found, audit, ctx)
    _write(scored, kept, audit, ctx)
    counts = Counts(
        seen=len(found), kept=len(kept), dropped=dict(Counter(line.reason for line in audit))
    )
    captions = [scored.captions[index] for index in kept]
    followed = followed_advice(advice, [items[index].record.sha256 for index in kept], audit, note)
    for change in followed:
        log.info("followed advice: %s", change)
    return SanitizeReport(
        counts=counts,
        replayed=sum(items[index].replayed for index in kept),
        text_sources=dict(Counter(caption.source for caption in captions)),
        text_changes=dict(Counter(step for caption in captions for step in caption.steps)),
        agreement=scored.agreement,
        alignment_percentile=percentile,
        alignment_note=note,
        median_side=int(median(_side(items[index]) for index in kept)),
        scorer=models.scorer.name,
        protected_works=repeated,
        followed_advice=followed,
    )


def _score(items: list[Item], models: Models, advice: Advice, ctx: StageContext) -> Scored:
    """Embed the pictures, choose or compose a caption for each, and compare the two."""
    parts = []
    for start in range(0, len(items), CHUNK):
        ctx.check_stop()
        parts.append(models.scorer.embed_images(open_images(items[start : start + CHUNK])))
    images = np.concatenate(parts)
    advised = advised_captions(items, advice)
    found = [advised.get(item.record.sha256) or found_caption(item.record) for item in items]
    # What a scorer chose, or finds wrong, says nothing of how well it reads what people wrote.
    named = {item.sha256 for item in advice.items}
    told = [i for i, c in enumerate(found) if c is not None and items[i].record.sha256 not in named]
    texts = models.scorer.embed_texts([c.text for i in told if (c := found[i]) is not None])
    agreed = agreement(images[told], texts)
    captions = _captions(items, found, images, models.scorer, trusted=agreed.trusted)
    vectors = models.scorer.embed_texts([caption.text for caption in captions])
    cosines = [
        float(images[index] @ vectors[index]) if caption.text else None
        for index, caption in enumerate(captions)
    ]
    return Scored(items, images, captions, cosines, agreed)


def _captions(
    items: list[Item],
    found: list[Caption | None],
    images: NDArray[np.float32],
    scorer: ImageTextScorer,
    *,
    trusted: bool,
) -> list[Caption]:
    """The found captions; where there is none, one chosen by a trusted scorer, or the name."""
    if not trusted:
        return [
            caption or named_caption(item.record)
            for item, caption in zip(items, found, strict=True)
        ]
    words = vocabulary(found)
    options = {
        index: candidates(items[index].record, words)
        for index, caption in enumerate(found)
        if caption is None
    }
    # Each text once: the vocabulary is everybody's.
    texts = list(dict.fromkeys(text for choice in options.values() for text in choice))
    known = dict(zip(texts, scorer.embed_texts(texts), strict=True))
    return [
        caption
        or compose(options[index], images[index], lambda some: np.stack([known[t] for t in some]))
        for index, caption in enumerate(found)
    ]


def _drop_copies(
    scored: Scored, models: Models, spec: SanitizeSpec, audit: list[AuditRecord], threads: int
) -> set[int]:
    """Indices of copies; each is written to ``audit`` with the item it copies."""
    items = scored.items
    texts = models.embedder.encode([caption.text for caption in scored.captions])
    # A composed caption is no witness: the scorer that sees two pictures alike chose it.
    witness = [[bool(c.text) and c.source != "composed"] for c in scored.captions]
    texts = texts * np.asarray(witness, dtype=np.float32)
    prints = Fingerprints.stack([item.hash for item in items], [item.thumb for item in items])
    words = np.array([len(caption.text.split()) for caption in scored.captions], dtype=np.int64)
    order = sorted(range(len(items)), key=lambda index: _worth(scored, index), reverse=True)
    gone: set[int] = set()
    close = copies(
        Evidence(prints, scored.images, texts, words),
        order,
        Limits(spec.image_similarity, spec.text_similarity, threads),
        known=sum(item.replayed for item in items),
    )
    for copy in close.found:
        gone.add(copy.index)
        original = items[copy.of].record.sha256
        audit.append(dropped(items[copy.index].record.sha256, copy.kind, f"of {original}"))
    return gone


def _worth(scored: Scored, index: int) -> tuple[bool, int, int, bool, float, str]:
    """Sort key, best last: replayed, caption found on the page, pixels, lossless, sharpness.

    Lossless before sharpness: a JPEG's ringing reads as sharpness.
    """
    item = scored.items[index]
    told = {"alt": 2, "caption": 2, "composed": 1}.get(scored.captions[index].source, 0)
    pixels = item.record.width * item.record.height
    return item.replayed, told, pixels, item.lossless, item.sharpness, item.record.sha256


def _drop_unaligned(
    scored: Scored,
    gone: set[int],
    percentile: float,
    floor: float | None,
    audit: list[AuditRecord],
) -> tuple[float, str]:
    """Add pairs that don't belong together to ``gone``; returns the percentile and a note."""
    if not scored.agreement.trusted:
        note = (
            f"the scorer can't tell real pairs from shuffled ones here (AUC from "
            f"{scored.agreement.low:.2f}, {scored.agreement.pairs} pairs): nothing was dropped"
        )
        log.info("alignment: %s", note)
        return 0.0, note
    judged = {
        index: cosine
        for index, cosine in enumerate(scored.cosines)
        if cosine is not None and index not in gone and _judged(scored, index)
    }
    apart = misaligned(judged, percentile=percentile, floor=floor)
    for index, reason in apart.items():
        gone.add(index)
        sha256 = scored.items[index].record.sha256
        audit.append(dropped(sha256, reason, f"cosine {judged[index]:.3f}"))
    note = (
        f"the scorer tells real pairs from shuffled ones (AUC from {scored.agreement.low:.2f}): "
        f"the worst {len(apart)} of {len(judged)} were dropped"
    )
    return percentile, note


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
    return scored.captions[index].source != "composed" and not scored.items[index].replayed


def _enough(
    items: list[Item], found: list[Source], audit: list[AuditRecord], ctx: StageContext
) -> None:
    least = ctx.settings.min_images
    if len(items) >= least:
        return
    table = ", ".join(f"{r} {n}" for r, n in Counter(line.reason for line in audit).most_common())
    msg = (
        f"{len(items)} of {len(found)} images are usable, {least} are needed "
        f"({table or 'nothing was found'}); add sources or loosen the limits"
    )
    raise DataError(msg)


def _write(scored: Scored, kept: list[int], audit: list[AuditRecord], ctx: StageContext) -> None:
    records = []
    for index in kept:
        raw = scored.items[index].record
        caption = scored.captions[index]
        records.append(
            CleanRecord(
                sha256=raw.sha256,
                file_name=f"images/{raw.sha256}.png",
                url=raw.url,
                page_url=raw.page_url,
                page_title=repair(raw.page_title).text,
                text=caption.text,
                text_source=caption.source,
                alignment=scored.cosines[index],
                licence=raw.licence,
                licence_evidence=raw.licence_evidence,
                width=raw.width,
                height=raw.height,
            )
        )
    files = {record.file_name for record in records}
    for item in scored.items:
        if f"images/{item.file.name}" not in files:
            item.file.unlink()
    write_jsonl(ctx.out / "records.jsonl", records)
    passed = [
        AuditRecord(
            item=record.sha256,
            what="image",
            stage="sanitize",
            verdict="kept",
            detail=_changes(scored, index),
        )
        for index, record in zip(kept, records, strict=True)
    ]
    before = read_audit(ctx.inputs["raw"].path)
    write_jsonl(ctx.out / "audit.jsonl", [*before, *audit, *passed])


def _changes(scored: Scored, index: int) -> str:
    """What repair did to the text, and the text before it; empty where it did nothing."""
    caption = scored.captions[index]
    if not caption.steps:
        return ""
    before = str(getattr(scored.items[index].record, caption.source))
    return f"{' '.join(caption.steps)}: {before[:400]!r}"


def _side(item: Item) -> int:
    return min(item.record.width, item.record.height)
