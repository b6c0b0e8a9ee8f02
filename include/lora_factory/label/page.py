"""``report.html`` of a dataset: what was kept and what was left out, with pictures.

Opens from the artifact without a server; harmless as ``reporting.page`` has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.label.pictures import may_be_shown
from lora_factory.reporting.page import render

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.records import DatasetInfo, DatasetRecord
    from lora_factory.label.report import LabelReport
    from lora_factory.label.summary import Cluster, Summary

FOLDER = Path(__file__).parent
SHOWN = 24
"""Kept pictures on the page."""
CLUSTERS = 12
"""Groups of copies on the page."""
COPIES = 5
"""Dropped copies shown of one group."""
EXAMPLES = 4
"""Dropped items shown of one reason."""
SLICES = 7
"""Licences with a slice of their own; the rest is one."""
REASONS = {
    "exact_duplicate": "the same bytes as another",
    "near_duplicate": "looks like another one, pixel by pixel",
    "semantic_duplicate": "shows and says the same as another",
    "too_small": "too few pixels",
    "extreme_aspect": "too long for its width",
    "blurred": "out of focus",
    "too_dark": "nearly black",
    "too_light": "nearly white",
    "uniform": "one colour",
    "text_heavy": "mostly writing",
    "text_duplicate": "says at length what another says",
    "corrupt": "damaged file",
    "not_an_image": "no picture, whatever it is called",
    "animated": "moves",
    "too_many_pixels": "too large to decode safely",
    "missing_file": "its file is gone",
    "unsafe_image": "the content filter objects",
    "unsafe_text": "its words may not be trained on",
    "taken_down": "somebody had it taken down",
    "protected_work": "repeats a protected work",
    "worst_alignment": "its words fit it worst",
    "below_alignment_floor": "its words don't fit it",
    "opt_out": "its owner opts out of training",
    "robots_disallowed": "robots.txt closes it",
    "licence_unknown": "no licence was found",
    "licence_not_allowed": "its licence is not allowed",
    "host_not_allowed": "on a host that may not be reached",
    "not_found": "no such page",
    "irrelevant_link": "a link that leads away",
    "off_topic": "about something else",
    "language": "in another language",
    "ads": "mostly advertisements",
    "low_entropy": "hardly any text",
    "over_budget": "more than was wanted",
    "duplicate_record": "named twice",
}
"""Reason code → words; others are shown as they are."""


@dataclass(frozen=True)
class Thumbnails:
    """sha256 → picture."""

    kept: Mapping[str, Image]
    dropped: Mapping[str, Image]


@dataclass(frozen=True)
class Slice:
    """A piece of the pie: SVG path on a circle of radius 1, empty for the whole circle."""

    name: str
    count: int
    share: float
    path: str
    colour: int


def choose_shown(records: Sequence[DatasetRecord], count: int = SHOWN) -> list[DatasetRecord]:
    """A sample over all top themes: one of each in turn, then the second of each, and so on."""
    themes: dict[str, list[DatasetRecord]] = {}
    for record in records:
        top = record.labels.theme[-1] if record.labels.theme else ""
        themes.setdefault(top, []).append(record)
    turns = max(map(len, themes.values()), default=0)
    order = [group[turn] for turn in range(turns) for group in themes.values() if turn < len(group)]
    return order[:count]


def shown_clusters(summary: Summary) -> list[Cluster]:
    """The largest groups of copies."""
    return list(summary.clusters[:CLUSTERS])


def pie(counts: Mapping[str, int]) -> list[Slice]:
    """Slices from twelve o'clock, clockwise; small ones beyond ``SLICES`` are one, "others"."""
    named = list(counts.items())
    if len(named) > SLICES:
        rest = sum(count for _, count in named[SLICES - 1 :])
        named = [*named[: SLICES - 1], ("others", rest)]
    total = sum(count for _, count in named)
    slices, start = [], 0.0
    for colour, (name, count) in enumerate(named):
        share = count / total
        path = "" if share == 1 else _arc(start, start + share)
        slices.append(Slice(name, count, share, path, colour))
        start += share
    return slices


def _arc(start: float, end: float) -> str:
    """Shares of the circle → an SVG path."""
    points = [
        (math.sin(2 * math.pi * share), -math.cos(2 * math.pi * share)) for share in (start, end)
    ]
    (x0, y0), (x1, y1) = points
    large = int(end - start > 0.5)
    return f"M0 0L{x0:.4f} {y0:.4f}A1 1 0 {large} 1 {x1:.4f} {y1:.4f}Z"


def render_dataset(
    info: DatasetInfo,
    report: LabelReport,
    summary: Summary,
    records: Sequence[DatasetRecord],
    held: set[str],
    thumbnails: Thumbnails,
) -> str:
    """The page.

    Args:
        info: of the dataset.
        report: of the stage.
        summary: counts of all that went in.
        records: those whose pictures are shown.
        held: sha256 of the items held out.
        thumbnails: what there is to show.
    """
    return render(
        FOLDER,
        "report.html.j2",
        info=info,
        report=report,
        summary=summary,
        records=records,
        held=held,
        kept=thumbnails.kept,
        dropped=thumbnails.dropped,
        clusters=shown_clusters(summary),
        copies=COPIES,
        slices=pie(summary.licences),
        reasons=REASONS,
        may_be_shown=may_be_shown,
        longest=max((count for _, count in summary.lengths), default=1),
    )
