"""clean → dataset: labels, trigger word, captions, split (article, 2.2).

Writes ``train/`` and ``validation/`` (pictures and ``metadata.jsonl``), ``dataset.json``,
``embeddings.npz`` and ``audit.parquet``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetInfo,
    DatasetRecord,
    Labels,
    read_jsonl,
)
from lora_factory.contracts.specs import LabelSpec
from lora_factory.contracts.stage import StageContext, read_advice
from lora_factory.errors import ArtifactError, ConfigurationError, DataError
from lora_factory.label import captions, trigger, write
from lora_factory.label.keywords import keywords, words_of
from lora_factory.label.labels import Labeler, Labelled, style_of_set, theme_of_set
from lora_factory.label.look import Looks, look
from lora_factory.label.report import LabelReport
from lora_factory.label.split import Split, near_duplicates, split
from lora_factory.label.taxonomy import UNKNOWN, Taxonomy, load_taxonomy
from lora_factory.models.loaders import image_text_scorer, limit_threads, text_embedder
from lora_factory.models.profiles import Profile, load_profile

if TYPE_CHECKING:
    from lora_factory.label.trigger import Tokenizer
    from lora_factory.models.roles import ImageTextScorer

log = logging.getLogger(__name__)
KIND: Kind = "dataset"
VERSION = 2
SPEC = LabelSpec
POOR_PERCENTILE = 25.0
"""Alignment under this percentile is poor, where the scorer can be believed at all."""


@dataclass(frozen=True)
class Items:
    """The n items that are kept, in the clean artifact's order."""

    records: tuple[CleanRecord, ...]
    looks: Looks
    seen: int
    dropped: dict[str, str]


@dataclass(frozen=True)
class Words:
    """Subjects, where they come from, and keywords of n items; keywords of the set."""

    subjects: tuple[str, ...]
    sources: tuple[str, ...]
    each: tuple[tuple[str, ...], ...]
    all: tuple[str, ...]


def roles(spec: LabelSpec) -> tuple[str, ...]:
    """All bases: the trigger is checked against each one's tokenizer."""
    del spec
    return ("labeler", "text_embedder", "image_text_scorer", "bases")


def run(spec: LabelSpec, ctx: StageContext) -> LabelReport:
    """Label, caption, split and write.

    Raises:
        SpecError: the trigger that was asked for means something already.
        DataError: fewer images than ``min_images`` are left.
        ArtifactError: the clean artifact or the advice can't be read.
        ConfigurationError: the profile's labeler is of a kind there is no code for.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    _check_labeler(profile)
    taxonomy = load_taxonomy()
    advice = read_advice(ctx)
    tokenizers = trigger.load_tokenizers(profile)
    if spec.trigger is not None:  # before any work
        trigger.check_trigger(spec.trigger, tokenizers, trigger.common_words(taxonomy))
    scorer = image_text_scorer(profile)
    items = read_items(ctx, scorer)
    word = spec.trigger or _new_trigger(spec, items, tokenizers, taxonomy)
    found = [captions.subject_of(record.text, word) for record in items.records]
    labelled = Labeler(taxonomy, scorer, text_embedder(profile)).generate_tags(
        items.looks, found, [record.page_title for record in items.records], spec.topics
    )
    ctx.check_stop()
    words = choose_words(spec, items, found, labelled, recaption=advice.recaption)
    parts = split(
        [record.sha256 for record in items.records],
        near_duplicates(items.looks.vectors, items.looks.prints),
        [record.page_url for record in items.records],
        spec.validation_share,
        spec.seed,
    )
    info = _info(spec, items, labelled, words, word, parts)
    _write(items, labelled, words, parts, info, ctx)
    tokens = {name: len(each.tokenize(word)) for name, each in tokenizers.items()}
    about = {
        "trigger_given": spec.trigger is not None,
        "trigger_tokens": tokens,
        "scorer": scorer.name,
        "followed_advice": followed_advice(advice, words),
    }
    report = _report(items, labelled, words, parts, info, about)
    _tell(report)
    return report


def followed_advice(advice: Advice, words: Words) -> tuple[str, ...]:
    """What advice changed here, for the report (single images are sanitize's)."""
    if not advice.recaption:
        return ()
    made = words.sources.count("composed")
    return (f"composed {made} of {len(words.sources)} captions anew, where the text was poor",)


def _check_labeler(profile: Profile) -> None:
    kind = profile.role("labeler").kind
    if kind != "zero-shot":
        msg = f"role labeler can't be filled by kind {kind!r}; use zero-shot"
        raise ConfigurationError(msg)


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


def _new_trigger(
    spec: LabelSpec, items: Items, tokenizers: Mapping[str, Tokenizer], taxonomy: Taxonomy
) -> str:
    taken = set(trigger.common_words(taxonomy))
    for text in (*spec.topics, *(record.text for record in items.records)):
        taken.update(words_of(text))
    shas = [record.sha256 for record in items.records]
    return trigger.make_trigger(spec.topics, shas, tokenizers, taken)


def choose_words(
    spec: LabelSpec,
    items: Items,
    found: Sequence[str],
    labelled: Labelled,
    *,
    recaption: bool,
) -> Words:
    """Subjects and keywords: found words, or labels where there are none (or poor ones).

    Args:
        spec: its topics are the last resort.
        items: n images with their texts.
        found: n cleaned texts.
        labelled: their labels.
        recaption: poor texts give way to words composed from labels and keywords.
    """
    contexts = [
        " ".join((record.text, *named.labels))
        for record, named in zip(items.records, labelled.themes, strict=True)
    ]
    each, whole = keywords(found, contexts, spec.topics)
    floor = _alignment_floor(items, labelled)
    subjects, sources = [], []
    for record, text, named, words in zip(items.records, found, labelled.themes, each, strict=True):
        if recaption and captions.is_poor(record, text, floor):
            labels = Labels(theme=named.labels, keywords=words)
            subjects.append(captions.compose_subject(labels, spec.topics[0].lower()))
            sources.append("composed")
        elif text:
            subjects.append(text)
            sources.append("found")
        else:
            subjects.append(named.labels[0] if named.labels else spec.topics[0].lower())
            sources.append("theme" if named.labels else "topic")
    return Words(tuple(subjects), tuple(sources), tuple(each), whole)


def _alignment_floor(items: Items, labelled: Labelled) -> float | None:
    known = [record.alignment for record in items.records if record.alignment is not None]
    trusted = labelled.agreement.trusted and bool(known)
    return float(np.percentile(known, POOR_PERCENTILE)) if trusted else None


def _info(
    spec: LabelSpec, items: Items, labelled: Labelled, words: Words, word: str, parts: Split
) -> DatasetInfo:
    taxonomy = load_taxonomy()
    held = int(parts.validation.sum())
    sides = [min(record.width, record.height) for record in items.records]
    return DatasetInfo(
        trigger=word,
        style=style_of_set(labelled.style, items.looks.tones, spec.topics),
        theme=theme_of_set(labelled.themes, taxonomy, spec.topics),
        keywords=words.all,
        domain=spec.domain,
        train=len(items.records) - held,
        validation=held,
        resolution=max(8, int(np.median(sides))),
    )


def _dataset_records(
    items: Items, labelled: Labelled, words: Words, word: str
) -> list[DatasetRecord]:
    return [
        DatasetRecord(
            file_name=f"{record.sha256}.png",
            text=captions.caption(word, words.subjects[row]),
            subject=words.subjects[row],
            labels=Labels(
                theme=labelled.themes[row].labels,
                style=labelled.styles[row],
                school=labelled.schools[row],
                keywords=words.each[row],
                confidence=min(1.0, labelled.themes[row].confidence),
            ),
            licence=record.licence,
            source=record.url,
            sha256=record.sha256,
        )
        for row, record in enumerate(items.records)
    ]


def _write(
    items: Items,
    labelled: Labelled,
    words: Words,
    parts: Split,
    info: DatasetInfo,
    ctx: StageContext,
) -> None:
    clean = ctx.inputs["clean"].path
    records = _dataset_records(items, labelled, words, info.trigger)
    for name, inside in (("train", ~parts.validation), ("validation", parts.validation)):
        rows = np.flatnonzero(inside).tolist()
        write.write_images(
            name,
            [records[row] for row in rows],
            [items.records[row] for row in rows],
            clean,
            ctx,
        )
    write.write_info(ctx.out, info)
    shas = [record.sha256 for record in records]
    write.write_embeddings(ctx.out, shas, items.looks.vectors, labelled.subjects)
    verdicts = [
        AuditRecord(item=sha256, what="image", stage="label", verdict="dropped", reason=reason)
        for sha256, reason in items.dropped.items()
    ]
    verdicts += [
        AuditRecord(
            item=record.sha256,
            what="image",
            stage="label",
            verdict="kept",
            detail="validation" if held else "train",
        )
        for record, held in zip(records, parts.validation.tolist(), strict=True)
    ]
    write.write_audit(ctx.out, [*write.read_audit(clean), *verdicts])


def _report(
    items: Items,
    labelled: Labelled,
    words: Words,
    parts: Split,
    info: DatasetInfo,
    about: Mapping[str, Any],
) -> LabelReport:
    named = [theme for theme in labelled.themes if theme.labels]
    count = len(items.records)
    dropped = Counter(items.dropped.values())
    dropped["duplicate_record"] = items.seen - count - len(items.dropped)
    return LabelReport(
        counts=Counts(seen=items.seen, kept=count, dropped=+dropped),
        trigger=info.trigger,
        theme=info.theme,
        themes=dict(Counter(t.labels[0] if t.labels else UNKNOWN for t in labelled.themes)),
        unknown_share=1 - len(named) / count,
        confidence_mean=float(np.mean([t.confidence for t in named])) if named else 0.0,
        style=info.style,
        style_source="labels" if labelled.style != UNKNOWN else "tone and topic",
        styles=dict(Counter(labelled.styles)),
        schools=dict(Counter(labelled.schools)),
        tones=dict(Counter(items.looks.tones)),
        keywords=words.all,
        captions=dict(Counter(words.sources)),
        agreement=labelled.agreement,
        theme_weight=labelled.theme_weight,
        style_weight=labelled.style_weight,
        train=info.train,
        validation=info.validation,
        groups=parts.groups,
        split_by_page=parts.by_page,
        resolution=info.resolution,
        **about,
    )


def _tell(report: LabelReport) -> None:
    for change in report.followed_advice:
        log.info("followed advice: %s", change)
    log.info(
        "trigger %r, style %s (%s), theme %s; %d train, %d validation; keywords %s",
        report.trigger,
        report.style,
        report.style_source,
        report.theme,
        report.train,
        report.validation,
        ", ".join(report.keywords),
    )
    if report.validation == 0:
        log.warning("all images are near-duplicates of each other: nothing could be held out")
    if report.theme_weight == report.style_weight == 0:
        log.info("the scorer knows these pictures or the labels too badly: words decide labels")
