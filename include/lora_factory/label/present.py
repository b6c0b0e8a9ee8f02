"""Writes what people read of a dataset: the card ``README.md`` and the page ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.contracts.records import AuditRecord, DatasetInfo, DatasetRecord
from lora_factory.label.card import dataset_card
from lora_factory.label.page import (
    EXAMPLES,
    Thumbnails,
    choose_shown,
    render_dataset,
    shown_clusters,
)
from lora_factory.label.pictures import (
    dropped_thumbnails,
    kept_thumbnails,
    may_be_shown,
    wanted,
)
from lora_factory.label.report import LabelReport
from lora_factory.label.summary import summarise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lora_factory.contracts.stage import StageContext
    from lora_factory.guard.images import ImageFilter
    from lora_factory.label.taxonomy import Taxonomy


@dataclass(frozen=True)
class Presented:
    """A dataset as it was written.

    ``duplicates``: a group number for each record.
    ``audit``: verdicts of all stages."""

    info: DatasetInfo
    report: LabelReport
    records: Sequence[DatasetRecord]
    held: set[str]
    duplicates: NDArray[np.intp]
    audit: Sequence[AuditRecord]


def present(made: Presented, taxonomy: Taxonomy, pictures: ImageFilter, ctx: StageContext) -> None:
    """Write both files.

    Args:
        made: the dataset; its pictures lie in ``ctx.out``.
        taxonomy: of its labels.
        pictures: decides which dropped pictures may be shown.
        ctx: of the stage.

    Raises:
        Interrupted: asked to stop.
    """
    clean = ctx.inputs["clean"]
    audit = made.audit
    summary = summarise(made.records, audit, made.duplicates, taxonomy, EXAMPLES)
    card = dataset_card(made.info, made.report, summary, clean)
    (ctx.out / "README.md").write_text(card, encoding="utf-8")
    clusters = shown_clusters(summary)
    shown = choose_shown(made.records)
    names = {record.sha256 for record in shown} | {sha for c in clusters for sha in c.kept}
    files = {
        r.sha256: f"{'validation' if r.sha256 in made.held else 'train'}/{r.file_name}"
        for r in made.records
        if r.sha256 in names
    }
    hidden = {
        line.item for line in audit if line.verdict == "dropped" and not may_be_shown(line.reason)
    }
    dropped = dropped_thumbnails(wanted(summary.drops, clusters, hidden), ctx, pictures)
    thumbnails = Thumbnails(kept_thumbnails(ctx.out, files), dropped)
    page = render_dataset(made.info, made.report, summary, shown, made.held, thumbnails)
    (ctx.out / "report.html").write_text(page, encoding="utf-8")
