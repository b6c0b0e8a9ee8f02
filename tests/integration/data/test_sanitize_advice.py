"""Alignment, advice and replay through the runner, with the embedded models."""

from __future__ import annotations

import io
from pathlib import Path

from drawn_signs import signs  # type: ignore[import-not-found]
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    ICONS,
    Raw,
    Sanitize,
    add_icons,
    add_signs,
    encoded,
    previous_dataset,
)

from lora_factory.contracts.evaluation import Advice, ItemAdvice
from lora_factory.contracts.settings import Settings


def test_a_trusted_scorer_drops_the_worst_pairs(raw: Raw, sanitize: Sanitize) -> None:
    names = add_signs(raw)
    upside_down = signs()["orange heart"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    wrong = raw.add(encoded(upside_down), "black square")
    cleaned = sanitize(raw, alignment_percentile=4.0)
    assert cleaned.report.agreement.trusted
    assert cleaned.why(wrong) == ["worst_alignment"]
    assert cleaned.counts.dropped == {"worst_alignment": 1}
    assert cleaned.report.alignment_percentile == 4.0
    assert set(names.values()) == cleaned.by_hash.keys()
    assert all(record.alignment is not None for record in cleaned.records)


def test_advice_raises_the_share_that_is_dropped(
    raw: Raw, sanitize: Sanitize, tmp_path: Path
) -> None:
    add_signs(raw)
    advice = tmp_path / "advice"
    advice.mkdir()
    (advice / "advice.json").write_text(Advice(drop_alignment_percentile=25).model_dump_json())
    cleaned = sanitize(raw, {"advice": advice})
    assert cleaned.report.alignment_percentile == 25
    assert cleaned.counts.dropped == {"worst_alignment": 6}
    worst = min(record.alignment for record in cleaned.records if record.alignment is not None)
    gone = [float(line.detail.split()[1]) for line in cleaned.audit if line.reason]
    assert max(gone) <= worst + 0.001


def test_advice_on_single_images_is_followed_by_name(
    raw: Raw, sanitize: Sanitize, tmp_path: Path
) -> None:
    names = add_signs(raw)
    bad = raw.add(
        encoded(signs()["orange heart"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)), "x y"
    )
    copy = raw.add(
        encoded(
            Image.open(io.BytesIO((raw.folder / f"images/{bad}.png").read_bytes())),
            "JPEG",
            quality=70,
        ),
        "x y",
    )
    folder = tmp_path / "advice"
    folder.mkdir()
    items = (
        ItemAdvice(sha256=bad, do="drop", reason="off_style", detail="looks wrong"),
        ItemAdvice(
            sha256=names["red heart"], do="recaption", reason="caption_mismatch", text="ruby heart"
        ),
        ItemAdvice(sha256="0" * 64, do="drop", reason="copied"),  # not here any more
    )
    (folder / "advice.json").write_text(Advice(items=items).model_dump_json())
    cleaned = sanitize(raw, {"advice": folder})
    assert cleaned.why(bad) == ["advised_off_style"]
    assert cleaned.why(copy) == ["near_duplicate"]  # it does not take the bad one's place
    renamed = cleaned.by_hash[names["red heart"]]
    assert (renamed.text, renamed.text_source) == ("ruby heart", "composed")
    assert cleaned.by_hash.keys() == set(names.values())
    assert cleaned.report.followed_advice == (
        "dropped 1 images: advised_off_style",
        "captioned 1 images anew, by name",
    )


def test_a_wrong_caption_is_taken_away_and_the_picture_stays(
    raw: Raw, sanitize: Sanitize, tmp_path: Path
) -> None:
    """No caption is better than a wrong one, or one that a scorer guesses."""
    names = add_signs(raw)
    wrong = (names["red heart"], names["blue circle"])
    items = tuple(
        ItemAdvice(sha256=sha256, do="recaption", reason="caption_mismatch") for sha256 in wrong
    )
    folder = tmp_path / "advice"
    folder.mkdir()
    (folder / "advice.json").write_text(Advice(items=items).model_dump_json())
    cleaned = sanitize(raw, {"advice": folder})
    assert cleaned.by_hash.keys() == set(names.values())
    for sha256 in wrong:
        assert (cleaned.by_hash[sha256].text, cleaned.by_hash[sha256].text_source) == ("", "none")
        assert cleaned.by_hash[sha256].alignment is None
    assert sum(record.text != "" for record in cleaned.records) == 22
    assert cleaned.report.followed_advice == ("took the wrong captions of 2 images away",)


def test_advice_that_leaves_too_few_images_is_not_followed(
    raw: Raw, sanitize: Sanitize, tmp_path: Path, settings: Settings
) -> None:
    names = add_signs(raw)
    folder = tmp_path / "advice"
    folder.mkdir()
    items = tuple(
        ItemAdvice(sha256=sha256, do="drop", reason="off_style") for sha256 in names.values()
    )
    advice = Advice(items=items, drop_alignment_percentile=30)
    (folder / "advice.json").write_text(advice.model_dump_json())
    cleaned = sanitize(raw, {"advice": folder}, alignment_percentile=0)
    assert len(cleaned.records) == settings.min_images


def test_a_floor_drops_whatever_is_below(raw: Raw, sanitize: Sanitize) -> None:
    add_signs(raw)
    cleaned = sanitize(raw, min_alignment=0.7, alignment_percentile=0)
    assert cleaned.counts.dropped.keys() == {"below_alignment_floor"}
    assert all((record.alignment or 0) >= 0.7 for record in cleaned.records)


def test_a_trusted_scorer_composes_captions(raw: Raw, sanitize: Sanitize) -> None:
    names = add_signs(raw)
    raw.records = [
        record.model_copy(update={"alt": "", "nearby": "A green heart. A black circle."})
        if record.sha256 in {names["black circle"], names["green heart"]}
        else record
        for record in raw.records
    ]
    cleaned = sanitize(raw)
    texts = {name: cleaned.by_hash[names[name]].text for name in ("black circle", "green heart")}
    assert texts == {"black circle": "A black circle", "green heart": "A green heart"}
    assert cleaned.report.text_sources == {"alt": 22, "composed": 2}


def test_a_previous_dataset_is_replayed(raw: Raw, sanitize: Sanitize, tmp_path: Path) -> None:
    replayed = previous_dataset(tmp_path / "previous", ICONS[:15])
    new = add_icons(raw, ICONS[15:25])
    again = raw.add(ICONS[0].read_bytes(), "found again")
    with Image.open(ICONS[1]) as opened:
        larger = opened.convert("RGB").resize((192, 192), Image.Resampling.LANCZOS)
    better = raw.add(encoded(larger), "a much better alt text")
    cleaned = sanitize(raw, {"previous": tmp_path / "previous"})
    assert cleaned.by_hash.keys() == {*replayed, *new}
    assert cleaned.report.replayed == 15
    assert cleaned.counts.dropped == {"exact_duplicate": 1, "near_duplicate": 1}
    assert cleaned.counts.seen == 15 + 12
    assert again == replayed[0]
    assert cleaned.why(better) == ["near_duplicate"]
    first = cleaned.by_hash[replayed[0]]
    assert first.text == ICONS[0].stem
    assert first.url == f"https://old.example.org/{ICONS[0].name}"
    assert first.page_url == "https://old.example.org/"  # the split still knows it
    assert (first.width, first.height) == (64, 64)


def test_alignment_spares_replayed_items(raw: Raw, sanitize: Sanitize, tmp_path: Path) -> None:
    """The worst pair is an old one: it was judged when it was new."""
    add_signs(raw)
    replayed = previous_dataset(tmp_path / "previous", ICONS[:1])
    cleaned = sanitize(raw, {"previous": tmp_path / "previous"}, alignment_percentile=10.0)
    assert cleaned.report.agreement.trusted
    assert cleaned.counts.dropped == {"worst_alignment": 2}
    assert set(replayed) <= cleaned.by_hash.keys()
