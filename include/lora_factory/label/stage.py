"""clean → dataset: labels, trigger word, captions, split (article, 2.2).

Writes ``train/`` and ``validation/`` (pictures and ``metadata.jsonl``), ``dataset.json``,
embeddings, ``audit.parquet``, the card ``README.md`` and the page ``report.html``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
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
from lora_factory.guard.images import image_filter
from lora_factory.label import captions, trigger, write
from lora_factory.label.answered import overlay, safe_answers
from lora_factory.label.embeddings import Embeddings, create_embeddings, write_embeddings
from lora_factory.label.keywords import words_of
from lora_factory.label.labels import Labeler, Labelled, style_of_set, theme_of_set
from lora_factory.label.llm import Answered, LlmLabeler
from lora_factory.label.look import Looks, look
from lora_factory.label.present import Presented, present
from lora_factory.label.report import LabelReport
from lora_factory.label.split import Split, near_duplicates, split
from lora_factory.label.taxonomy import UNKNOWN, Taxonomy, load_taxonomy
from lora_factory.label.words import Given, Words, choose_words
from lora_factory.models.llm import endpoint_conditions
from lora_factory.models.loaders import image_text_scorer, limit_threads, text_embedder
from lora_factory.models.profiles import Profile, load_profile

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.label.trigger import Tokenizer
    from lora_factory.models.roles import ImageTextScorer, TextEmbedder

log = logging.getLogger(__name__)
KIND: Kind = "dataset"
VERSION = 3
SPEC = LabelSpec


@dataclass(frozen=True)
class Items:
    """The n items that are kept, in the clean artifact's order."""

    records: tuple[CleanRecord, ...]
    looks: Looks
    seen: int
    dropped: dict[str, str]


@dataclass(frozen=True)
class Made:
    """What becomes of the items."""

    items: Items
    labelled: Labelled
    words: Words
    parts: Split
    info: DatasetInfo
    records: list[DatasetRecord]


def roles(spec: LabelSpec) -> tuple[str, ...]:
    """All bases: the trigger is checked against each one's tokenizer.

    The content filter decides which dropped pictures the page may show.
    """
    del spec
    return ("labeler", "text_embedder", "image_text_scorer", "bases", "content_filter")


def conditions(_inputs: Mapping[str, LocalArtifact], settings: Settings) -> dict[str, str]:
    """What of the deployment decides the labels, where its endpoint is asked for them."""
    return endpoint_conditions(settings)


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
    asks = _asks_llm(profile, ctx.settings)
    taxonomy = load_taxonomy()
    advice = read_advice(ctx)
    tokenizers = trigger.load_tokenizers(profile)
    if spec.trigger is not None:  # before any work
        trigger.check_trigger(spec.trigger, tokenizers, trigger.common_words(taxonomy))
    scorer = image_text_scorer(profile)
    items = read_items(ctx, scorer)
    word = spec.trigger or _new_trigger(spec, items, tokenizers, taxonomy)
    found = [captions.subject_of(record.text, word) for record in items.records]
    embedder = text_embedder(profile)
    labelled = Labeler(taxonomy, scorer, embedder).generate_tags(
        items.looks, found, [record.page_title for record in items.records], spec.topics
    )
    ctx.check_stop()
    answered = _ask(spec, ctx, items, profile, embedder) if asks else None
    if answered is not None:
        labelled = overlay(labelled, answered.answers, taxonomy)
    answers = answered.answers if answered is not None else {}
    words = choose_words(
        Given(items.records, found, spec.topics, answers, vision=profile.role("labeler").vision),
        labelled,
        recaption=advice.recaption,
    )
    duplicates = near_duplicates(items.looks.vectors, items.looks.prints)
    parts = split(
        [record.sha256 for record in items.records],
        duplicates,
        [record.page_url for record in items.records],
        spec.validation_share,
        spec.seed,
    )
    info = _info(spec, items, labelled, words, word, parts)
    vectors = create_embeddings(
        items.looks.vectors, words.subjects, embedder.encode(words.subjects), scorer
    )
    records = _dataset_records(items, labelled, words, word)
    made = Made(items, labelled, words, parts, info, records)
    audit = _write(made, vectors, ctx)
    tokens = {name: len(each.tokenize(word)) for name, each in tokenizers.items()}
    about = {
        "trigger_given": spec.trigger is not None,
        "trigger_tokens": tokens,
        "scorer": scorer.name,
        "labeler": "zero-shot" if answered is None else "llm",
        "llm": None if answered is None else answered.use,
        "followed_advice": followed_advice(advice, words),
    }
    report = _report(made, about)
    present(
        Presented(info, report, records, _held(records, parts), duplicates, audit),
        image_filter(profile, ctx.settings),
        ctx,
    )
    _tell(report)
    return report


def _held(records: list[DatasetRecord], parts: Split) -> set[str]:
    return {r.sha256 for r, held in zip(records, parts.validation.tolist(), strict=True) if held}


def followed_advice(advice: Advice, words: Words) -> tuple[str, ...]:
    """What advice changed here, for the report (single images are sanitize's)."""
    if not advice.recaption:
        return ()
    made = words.sources.count("composed")
    return (f"composed {made} of {len(words.sources)} captions anew, where the text was poor",)


def _asks_llm(profile: Profile, settings: Settings) -> bool:
    """Whether an LLM labels first; the zero-shot labeler is every profile's fallback."""
    kind = profile.role("labeler").kind
    if kind not in {"zero-shot", "llm"}:
        msg = f"role labeler can't be filled by kind {kind!r}; use llm or zero-shot"
        raise ConfigurationError(msg)
    if kind == "llm" and not settings.llm_url:
        log.warning("no LLM endpoint (LORA_FACTORY_LLM_URL): labelled zero-shot instead")
    return kind == "llm" and bool(settings.llm_url)


def _ask(
    spec: LabelSpec, ctx: StageContext, items: Items, profile: Profile, embedder: TextEmbedder
) -> Answered:
    entry = profile.role("labeler")
    labeler = LlmLabeler(entry, load_taxonomy(), ctx, ctx.inputs["clean"].path)
    found = labeler.ask(items.records, spec.topics)
    answers, unsafe = safe_answers(found.answers, embedder)
    lost = found.use.fallback | ({"unsafe_words": unsafe} if unsafe else {})
    return Answered(answers, found.use.model_copy(update={"fallback": lost}))


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
            text=captions.caption(word, write.utf8(words.subjects[row])),
            subject=write.utf8(words.subjects[row]),
            labels=Labels(
                theme=labelled.themes[row].labels,
                style=labelled.styles[row],
                school=labelled.schools[row],
                keywords=words.each[row],
                confidence=min(1.0, labelled.themes[row].confidence),
            ),
            licence=write.utf8(record.licence),
            source=write.utf8(record.url),
            sha256=record.sha256,
        )
        for row, record in enumerate(items.records)
    ]


def _write(made: Made, vectors: Embeddings, ctx: StageContext) -> list[AuditRecord]:
    """Fill the artifact; returns the verdicts of all stages."""
    clean = ctx.inputs["clean"].path
    items, parts, records = made.items, made.parts, made.records
    for name, inside in (("train", ~parts.validation), ("validation", parts.validation)):
        rows = np.flatnonzero(inside).tolist()
        write.write_images(
            name,
            [records[row] for row in rows],
            [items.records[row] for row in rows],
            clean,
            ctx,
        )
    write.write_info(ctx.out, made.info)
    files = [
        f"{'validation' if held else 'train'}/{record.file_name}"
        for record, held in zip(records, parts.validation.tolist(), strict=True)
    ]
    write_embeddings(ctx.out, records, files, vectors)
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
    audit = [*write.read_audit(clean), *verdicts]
    write.write_audit(ctx.out, audit)
    return audit


def _report(made: Made, about: Mapping[str, Any]) -> LabelReport:
    items, labelled, words, parts, info = (
        made.items,
        made.labelled,
        made.words,
        made.parts,
        made.info,
    )
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
