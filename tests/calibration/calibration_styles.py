"""The icon styles that calibration fits on and reports on, and datasets of them in house form.

``data/<style>/sheet.png`` holds a style's icons, 64 px each, row by row, and ``icons.json``
their names, licence and source (``render.py`` made both). Four styles are fitted on, four
only reported on: a constant that has seen a style says nothing of others. The design, too, was
chosen knowing those four, so witnesses were drawn when nothing could change any more, and
looked at once.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from lora_factory.contracts.records import DatasetInfo, DatasetRecord, write_jsonl
from lora_factory.label.captions import caption

DATA = Path(__file__).parent / "data"
SIDE = 64
COLUMNS = 12
Use = Literal["fit", "report", "witness"]


@dataclass(frozen=True)
class Style:
    """One style: icons of a package whose names end in ``suffix``.

    ``plain``: every word of a name must be one token of the embedded base, which is what
    tells words that the base was made with from "git", "lasso" and "vsphere". Sets with
    too few such names take any name of up to four alphabetic words.
    """

    name: str
    package: str
    suffix: str
    trigger: str
    words: str
    use: Use
    foreign: tuple[str, ...]
    """Styles whose LoRAs are none of this one: of the same group, a witness's of the reported."""
    plain: bool = True


STYLES = (
    Style(
        *("high-contrast", "fluent-emoji-high-contrast", "", "vokel", "black emoji", "fit"),
        foreign=("tabler-filled", "ph-duotone"),
    ),
    Style(
        *("tabler-filled", "tabler", "-filled", "zumar", "solid signs", "fit"),
        foreign=("ph-duotone", "lucide"),
    ),
    Style(
        *("ph-duotone", "ph", "-duotone", "quilp", "grey two-tone", "fit"),
        foreign=("lucide", "high-contrast"),
    ),
    Style(
        *("lucide", "lucide", "", "brefa", "thin lines", "fit"),
        foreign=("high-contrast", "tabler-filled"),
    ),
    Style(
        *("mdi", "mdi", "", "tusko", "solid black", "report"),
        foreign=("carbon", "meteocons"),
    ),
    Style(
        *("carbon", "carbon", "", "feldo", "drawn signs", "report"),
        foreign=("meteocons", "mdi"),
    ),
    Style(
        *("meteocons", "meteocons", "-fill", "ansor", "weather colours", "report"),
        foreign=("mdi", "carbon"),
        plain=False,
    ),
    Style(
        *("fluent", "fluent", "-24-regular", "mirda", "outlined signs", "report"),
        foreign=("mdi", "meteocons"),
    ),
    Style(
        *("ph-bold", "ph", "-bold", "gruvo", "thick lines", "witness"),
        foreign=("carbon", "fluent"),
    ),
)
VALIDATION = 24
"""Icons held out; the rest is trained on."""


def style(name: str) -> Style:
    return next(one for one in STYLES if one.name == name)


@dataclass(frozen=True)
class Icons:
    """A style's icons: pictures, PNG bytes, names, licence and source."""

    pictures: tuple[bytes, ...]
    subjects: tuple[str, ...]
    licence: str
    source: str


@functools.cache
def icons(name: str) -> Icons:
    """Read ``data/<name>``."""
    about = json.loads((DATA / name / "icons.json").read_text(encoding="utf-8"))
    pictures = []
    with Image.open(DATA / name / "sheet.png") as opened:
        sheet = opened.convert("RGB")
    for place in range(len(about["subjects"])):
        row, column = divmod(place, COLUMNS)
        corner = (column * SIDE, row * SIDE)
        out = io.BytesIO()
        sheet.crop((*corner, corner[0] + SIDE, corner[1] + SIDE)).save(out, format="PNG")
        pictures.append(out.getvalue())
    return Icons(tuple(pictures), tuple(about["subjects"]), about["licence"], about["source"])


def write_dataset(
    folder: Path,
    name: str,
    *,
    subjects: Sequence[str] | None = None,
    only: range | None = None,
    held_out: bool = True,
) -> Path:
    """A dataset artifact's folder.

    Args:
        folder: made here.
        name: of the style.
        subjects: other captions for the training icons, in their order (sabotage).
        only: places of the training icons there are, and no more (sabotage).
        held_out: whether there is a validation split; without one training can't see that
            it overfits, and keeps its last weights.
    """
    about, chosen = icons(name), style(name)
    parts = {"validation": range(VALIDATION), "train": range(VALIDATION, len(about.pictures))}
    told = dict(zip(parts["train"], subjects, strict=True)) if subjects is not None else {}
    if only is not None:
        parts["train"] = parts["train"][only.start : only.stop]
    if not held_out:
        del parts["validation"]
    for part, places in parts.items():
        (folder / part).mkdir(parents=True)
        records = []
        for place in places:
            sha256 = hashlib.sha256(about.pictures[place]).hexdigest()
            (folder / part / f"{sha256}.png").write_bytes(about.pictures[place])
            subject = told.get(place, about.subjects[place])
            records.append(
                DatasetRecord(
                    file_name=f"{sha256}.png",
                    text=caption(chosen.trigger, subject),
                    subject=subject,
                    licence=about.licence,
                    source=f"https://icons.test/{name}/{place}.png",
                    sha256=sha256,
                )
            )
        write_jsonl(folder / part / "metadata.jsonl", records)
    info = DatasetInfo(
        trigger=chosen.trigger,
        style=chosen.words,
        theme="icons",
        keywords=("icon",),
        domain="art",
        train=len(parts["train"]),
        validation=VALIDATION if held_out else 0,
        resolution=SIDE,
    )
    (folder / "dataset.json").write_text(info.model_dump_json(), encoding="utf-8")
    return folder
