"""What becomes of the items: records, files, and what the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.contracts.base import Counts
from lora_factory.contracts.records import AuditRecord, DatasetInfo, DatasetRecord, Labels
from lora_factory.label import captions, write
from lora_factory.label.embeddings import Embeddings, write_embeddings
from lora_factory.label.labels import Labelled
from lora_factory.label.report import LabelReport
from lora_factory.label.taxonomy import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.contracts.specs import LabelSpec
    from lora_factory.contracts.stage import StageContext
    from lora_factory.label.items import Items
    from lora_factory.label.split import Split
    from lora_factory.label.words import Words


@dataclass(frozen=True)
class SetNames:
    """What the whole set is called."""

    trigger: str
    style: str
    theme: str


@dataclass(frozen=True)
class Made:
    """What becomes of the items."""

    items: Items
    labelled: Labelled
    words: Words
    duplicates: NDArray[np.intp]
    parts: Split
    info: DatasetInfo
    records: list[DatasetRecord]
    vectors: Embeddings

    @property
    def held(self) -> set[str]:
        """sha256 of what is held out."""
        out = self.parts.validation.tolist()
        return {record.sha256 for record, held in zip(self.records, out, strict=True) if held}


def set_info(
    spec: LabelSpec, items: Items, words: Words, parts: Split, named: SetNames
) -> DatasetInfo:
    """What later stages need to know of the set."""
    held = int(parts.validation.sum())
    sides = [min(record.width, record.height) for record in items.records]
    return DatasetInfo(
        trigger=named.trigger,
        style=named.style,
        theme=named.theme,
        keywords=words.all,
        domain=spec.domain,
        train=len(items.records) - held,
        validation=held,
        resolution=max(8, int(np.median(sides))),
    )


def dataset_records(
    items: Items, labelled: Labelled, words: Words, word: str
) -> list[DatasetRecord]:
    """A line of ``metadata.jsonl`` for each item."""
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
            page=write.utf8(record.page_url),
            sha256=record.sha256,
        )
        for row, record in enumerate(items.records)
    ]


def write_made(made: Made, ctx: StageContext) -> list[AuditRecord]:
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
    write.carry_measures(clean, ctx.out)
    files = [
        f"{'validation' if held else 'train'}/{record.file_name}"
        for record, held in zip(records, parts.validation.tolist(), strict=True)
    ]
    write_embeddings(ctx.out, records, files, made.vectors)
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


def report_of(made: Made, about: Mapping[str, Any]) -> LabelReport:
    """The stage's report; ``about``: its fields that don't follow from the items."""
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
        keywords_padded=words.padded,
        captions=dict(Counter(words.sources)),
        agreement=labelled.agreement,
        theme_weight=labelled.theme_weight,
        style_weight=labelled.style_weight,
        train=info.train,
        validation=info.validation,
        groups=parts.groups,
        pages=len({record.page_url for record in items.records if record.page_url}),
        pages_parted=parts.parted,
        resolution=info.resolution,
        **about,
    )
