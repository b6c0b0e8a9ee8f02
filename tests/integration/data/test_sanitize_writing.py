"""Pictures full of writing, through the runner, by the detector of the standard profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from sanitize_rig import (  # type: ignore[import-not-found]
    ICONS,
    Cleaned,
    Raw,
    add_icons,
    commit,
    encoded,
)

from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import PACKAGE
from lora_factory.runner import run_stage


@pytest.fixture
def reading(settings: Settings, tmp_path: Path) -> Settings:
    """The deployment with a profile ``read``: the embedded one that looks for writing."""
    profiles = PACKAGE / "profiles"
    _, role = (profiles / "standard.toml").read_text().split("[roles.text_detector]")
    role = "[roles.text_detector]" + role.split("\n[")[0]
    folder = tmp_path / "profiles"
    folder.mkdir()
    text = (profiles / "embedded.toml").read_text()
    (folder / "read.toml").write_text(f"{text}\n{role}\n")
    return settings.model_copy(update={"profiles": folder})


def written(side: int, size: int) -> bytes:
    """A notice in large type."""
    image = Image.new("RGB", (side, side), (200, 220, 210))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for top in range(2, side - size, round(size * 1.2)):
        draw.text((2, top), "The quick brown fox"[: side // size * 2], fill="black", font=font)
    return encoded(image)


def sanitize(raw: Raw, settings: Settings, **spec: Any) -> Cleaned:
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    raw.uri = raw.uri or commit(settings, raw.folder, "raw")
    values = {"raw": raw.uri, "profile": "read", **spec}
    return Cleaned(settings, run_stage("sanitize", values, settings).manifest_uri)


def test_what_is_mostly_text_is_dropped_and_icons_stay(raw: Raw, reading: Settings) -> None:
    icons = add_icons(raw, ICONS[:12])
    notices = [raw.add(written(64, 12), "a notice"), raw.add(written(256, 32), "a poster")]
    cleaned = sanitize(raw, reading)
    for sha256 in notices:
        assert cleaned.why(sha256) == ["text_heavy"]
    (line,) = [each for each in cleaned.audit if each.item == notices[1]]
    assert line.detail.endswith("% is text")
    assert cleaned.by_hash.keys() == set(icons)
    assert cleaned.report.text_note.startswith("writing was looked for by PP-OCRv6")
    everything = sanitize(raw, reading, max_text=1.0)
    assert everything.by_hash.keys() == {*icons, *notices}
