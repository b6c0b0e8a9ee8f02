"""Role ``captioner`` filled by a BLIP, through the runner: poor text → caption.

The BLIP is of the real class with random weights, so what is asserted is which pictures get its
words, where these go, and what the audit says; not that the words are true.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawn_signs import signs  # type: ignore[import-not-found]
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    ICONS,
    Cleaned,
    Raw,
    add_icons,
    add_signs,
    artifacts,
    commit,
    encoded,
)

from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ModelError
from lora_factory.models.captioners import captioner
from lora_factory.models.profiles import PACKAGE, load_profile
from lora_factory.runner import run_stage
from tiny_blip import WORDS, make_blip

COMPOSED = 'kind = "composed"'


def with_blip(settings: Settings, folder: Path, blip: Path) -> Settings:
    """The deployment with a profile ``told``: the embedded one, captions by this BLIP."""
    text = (PACKAGE / "profiles" / "embedded.toml").read_text()
    assert COMPOSED in text
    folder.mkdir(exist_ok=True)
    role = f'kind = "blip"\npath = "{blip}"\nbatch_size = 3'
    (folder / "told.toml").write_text(text.replace(COMPOSED, role))
    return settings.model_copy(update={"profiles": folder})


def sanitize(raw: Raw, settings: Settings, **spec: Any) -> Cleaned:
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    raw.uri = raw.uri or commit(settings, raw.folder, "raw")
    values = {"raw": raw.uri, "profile": "told", **spec}
    return Cleaned(settings, run_stage("sanitize", values, settings).manifest_uri)


@pytest.fixture
def told(settings: Settings, tmp_path: Path) -> Settings:
    return with_blip(settings, tmp_path / "profiles", make_blip(tmp_path / "blip", seed=2))


def own_words(settings: Settings, files: list[Path]) -> list[str]:
    """What the captioner says of these pictures, asked by itself."""
    found = captioner(load_profile("told", settings))
    assert found is not None
    return found.captions([Image.open(file).convert("RGB") for file in files])


def detail(cleaned: Cleaned, sha256: str) -> str:
    (line,) = [x for x in cleaned.audit if x.item == sha256 and x.stage == "sanitize"]
    return str(line.detail)


def test_pictures_without_words_are_captioned_and_the_others_left_alone(
    raw: Raw, told: Settings
) -> None:
    named = add_icons(raw, ICONS[:8])
    silent = [
        raw.add(file.read_bytes(), alt)
        for file, alt in zip(ICONS[8:13], ("", "IMG_0042.jpg", "<i></i>", "icon", ""), strict=True)
    ]
    cleaned = sanitize(raw, told)
    said = own_words(told, ICONS[8:13])
    assert all(said)
    for sha256, words in zip(silent, said, strict=True):
        record = cleaned.by_hash[sha256]
        assert (record.text, record.text_source) == (words, "composed")
        assert set(words.split()) <= set(WORDS)
        assert detail(cleaned, sha256) == "text (generated): ''"
    for sha256, file in zip(named, ICONS[:8], strict=True):
        assert cleaned.by_hash[sha256].text == file.stem.replace("-", " ")
        assert cleaned.by_hash[sha256].text_source == "alt"
    assert cleaned.report.text_sources == {"alt": 8, "composed": 5}
    assert cleaned.report.text_changes["generated"] == 5


def test_words_that_fit_badly_give_way_to_a_caption_that_fits_better(
    raw: Raw, told: Settings
) -> None:
    """A scorer that can be trusted finds them; the audit keeps them."""
    right = add_signs(raw)
    wrong = {}
    for colour in ("red", "orange", "green", "blue", "purple", "brown"):
        turned = signs()[f"{colour} heart"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        wrong[raw.add(encoded(turned), f"nothing at all, {colour}")] = f"nothing at all, {colour}"
    cleaned = sanitize(raw, told, alignment_percentile=20.0)  # six of thirty
    assert cleaned.report.agreement.trusted
    mended = [record for record in cleaned.records if record.text_source == "composed"]
    assert len(mended) == cleaned.report.recaptioned > 0
    assert {record.sha256 for record in mended} <= wrong.keys()
    assert "got a better caption" in cleaned.report.alignment_note
    lost = {line.item for line in cleaned.audit if line.reason == "worst_alignment"}
    assert lost | {record.sha256 for record in mended} == wrong.keys()
    assert all(cleaned.by_hash[sha256].text == name for name, sha256 in right.items())
    for record in mended:
        assert set(record.text.split()) <= set(WORDS)
        before = f"alt (generated replaced): {wrong[record.sha256]!r}"
        assert detail(cleaned, record.sha256) == before


def test_another_captioner_makes_another_artifact(
    raw: Raw, settings: Settings, tmp_path: Path
) -> None:
    add_icons(raw, ICONS[:8])
    raw.add(ICONS[8].read_bytes())
    found = []
    for seed in (2, 3):
        blip = make_blip(tmp_path / f"blip{seed}", seed=seed)
        found.append(sanitize(raw, with_blip(settings, tmp_path / "profiles", blip)))
    assert found[0].path != found[1].path
    assert found[0].records[-1].text != found[1].records[-1].text


def test_a_pickled_captioner_is_refused_before_any_picture_is_kept(
    raw: Raw, settings: Settings, tmp_path: Path
) -> None:
    add_icons(raw, ICONS[:8])
    raw.add(encoded(Image.new("RGB", (64, 64), "red")))
    blip = make_blip(tmp_path / "blip", safe=False)
    with pytest.raises(ModelError, match="can't be loaded"):
        sanitize(raw, with_blip(settings, tmp_path / "profiles", blip))
    assert artifacts(settings) == []
