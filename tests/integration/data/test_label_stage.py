"""label with the embedded models on the demo's icons: a dataset that later stages can read."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetInfo,
    DatasetRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import LabelSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.errors import ArtifactError, DataError, Interrupted, SpecError
from lora_factory.evaluate.prompts import generate_eval_prompts
from lora_factory.imaging.hashes import Fingerprints
from lora_factory.label import stage
from lora_factory.label.keywords import words_of
from lora_factory.label.labels import Labeler
from lora_factory.label.look import Looks
from lora_factory.label.report import LabelReport
from lora_factory.label.taxonomy import load_taxonomy
from lora_factory.label.zero_shot import TEMPLATES, prototypes
from lora_factory.models.loaders import image_text_scorer, text_embedder
from lora_factory.models.profiles import PACKAGE, load_profile
from lora_factory.tune.measure import measure_dataset
from training_data import artifact, context

GALLERY = PACKAGE / "demo" / "gallery"
TOPICS = ("emoji icons",)
COUNT = 40


def gallery() -> list[dict[str, str]]:
    """A fixed sample of the gallery, with the title of each icon's room."""
    found = json.loads((GALLERY / "icons.json").read_text())
    icons = [icon for icon in found["icons"] if icon["category"] != "visitors"]
    random.Random(3).shuffle(icons)
    return [
        icon | {"title": f"{found['categories'][icon['category']]['title']}: the Outline Gallery"}
        for icon in icons[:COUNT]
    ]


def make_clean(folder: Path, *, texts: dict[int, str] | None = None) -> LocalArtifact:
    """A clean artifact: 40 icons and a near-duplicate (a small and enlarged copy) of the first."""
    (folder / "images").mkdir(parents=True)
    records = []
    for number, icon in enumerate([*gallery(), gallery()[0]]):
        file = folder / "images" / "draft.png"
        with Image.open(GALLERY / "icons" / f"{icon['name']}.png") as opened:
            image = opened.convert("RGB")
        if number == COUNT:
            image = image.resize((48, 48)).resize((64, 64))
        image.save(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(file.with_name(f"{sha256}.png"))
        text = (texts or {}).get(number, f"Icon of a {icon['caption']}.")
        records.append(
            CleanRecord(
                sha256=sha256,
                file_name=f"images/{sha256}.png",
                url=f"http://gallery.test/{number}.png",
                page_url=f"http://gallery.test/rooms/{icon['category']}.html",
                page_title=icon["title"],
                text=text,
                text_source="alt" if text else "none",
                licence="MIT",
                width=64,
                height=64,
            )
        )
    write_jsonl(folder / "records.jsonl", records)
    page = AuditRecord(
        item="http://gallery.test/bad\ud800", what="page", stage="crawl", verdict="dropped"
    )
    write_jsonl(folder / "audit.jsonl", [page])
    return artifact(folder, "clean")


@dataclass(frozen=True)
class Made:
    """A run of the stage."""

    clean: LocalArtifact
    out: Path
    report: LabelReport

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo.model_validate_json((self.out / "dataset.json").read_bytes())

    def records(self, *splits: str) -> list[DatasetRecord]:
        found: list[DatasetRecord] = []
        for split in splits or ("train", "validation"):
            found += read_jsonl(self.out / split / "metadata.jsonl", DatasetRecord)
        return found


def make(work: Path, clean: LocalArtifact, advice: Advice | None = None, **spec: object) -> Made:
    inputs = {"clean": clean}
    if advice is not None:
        (work / "advice").mkdir(parents=True)
        (work / "advice" / "advice.json").write_text(advice.model_dump_json())
        inputs["advice"] = artifact(work / "advice", "evaluation")
    values = {"clean": clean.uri, "topics": TOPICS, **spec}
    ctx = context(work, **inputs)
    return Made(clean, ctx.out, stage.run(LabelSpec.model_validate(values), ctx))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> LocalArtifact:
    return make_clean(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def made(clean: LocalArtifact, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"), clean)


def rows(made: Made) -> dict[str, np.ndarray]:
    with np.load(made.out / "embeddings.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_every_image_is_in_one_part_with_its_bytes(made: Made) -> None:
    train, held = made.records("train"), made.records("validation")
    assert made.report.counts.seen == made.report.counts.kept == COUNT + 1
    assert (len(train), len(held)) == (made.info.train, made.info.validation) == (35, 6)
    assert len({record.sha256 for record in (*train, *held)}) == COUNT + 1
    for split, records in (("train", train), ("validation", held)):
        assert len(list((made.out / split).glob("*.png"))) == len(records)
        for record in records:
            copied = (made.out / split / record.file_name).read_bytes()
            assert hashlib.sha256(copied).hexdigest() == record.sha256


def test_records_name_their_pages(made: Made) -> None:
    originals = {
        record.sha256: record.page_url
        for record in read_jsonl(made.clean.path / "records.jsonl", CleanRecord)
    }
    assert {record.sha256: record.page for record in made.records()} == originals


def test_no_near_duplicate_is_held_out(made: Made) -> None:
    originals = list(read_jsonl(made.clean.path / "records.jsonl", CleanRecord))
    twins = {originals[0].sha256, originals[-1].sha256}
    held = {record.sha256 for record in made.records("validation")}
    assert len(twins) == 2
    assert twins <= held or not twins & held
    assert made.report.groups == COUNT


def test_captions_ask_for_the_style_as_the_demo_does(made: Made) -> None:
    subjects = {icon["caption"].lower() for icon in gallery()}
    for record in made.records():
        assert record.text == f"{record.subject}, {made.info.trigger} style"
        assert record.subject in subjects
    assert made.report.trigger_tokens["emoji"] > 1
    assert made.report.captions == {"found": COUNT + 1}


def test_labels_say_what_the_icons_are(made: Made) -> None:
    """Words decide here: the report says that the small scorer knows too little."""
    assert made.report.theme_weight == made.report.style_weight == 0
    assert made.report.style == made.info.style == "black and white icon"
    assert made.report.schools == {"unknown": COUNT + 1}
    assert made.report.tones == {"bilevel": COUNT + 1}
    assert made.report.unknown_share < 0.2
    by_subject = {record.subject: record.labels for record in made.records()}
    rooms = {"home-and-farm-animals": "animals", "wild-animals": "animals", "fruit": "food"}
    known = [icon for icon in gallery() if icon["category"] in rooms]
    right = [rooms[icon["category"]] in by_subject[icon["caption"].lower()].theme for icon in known]
    assert len(known) >= 5
    assert np.mean(right) >= 0.8
    for labels in by_subject.values():
        assert len(labels.theme) <= 3
        assert (labels.confidence > 0) == bool(labels.theme)
    assert 5 <= len(made.info.keywords) <= 8


def test_every_item_has_five_keywords_and_none_is_invented(made: Made) -> None:
    """Of its own words, its labels, the set's words, the taxonomy's names, the topics."""
    taxonomy = load_taxonomy()
    names = {*taxonomy.themes, *taxonomy.styles, *taxonomy.schools}
    known = names | {word for text in (*names, *TOPICS) for word in words_of(text)}
    for record in made.records():
        known |= {*words_of(record.subject)}
    for record in made.records():
        assert 5 <= len(record.labels.keywords) <= 8
        assert set(record.labels.keywords) <= known, record.labels.keywords
        own = [word for word in record.labels.keywords if word in words_of(record.subject)]
        assert list(record.labels.keywords[: len(own)]) == own
    assert 0 < made.report.keywords_padded <= COUNT + 1


def test_the_gallerys_rooms_are_too_large_to_be_held_out_whole(made: Made) -> None:
    rooms = {f"http://gallery.test/rooms/{icon['category']}.html" for icon in gallery()}
    assert made.report.pages == len(rooms)
    assert set(made.report.pages_parted) < rooms
    card = (made.out / "README.md").read_text()
    assert f"but for {len(made.report.pages_parted)} of {len(rooms)} pages" in card


def test_pictures_speak_where_their_weight_is_not_zero(made: Made) -> None:
    """A scorer that passes both tests is not at hand; its evidence takes the same way."""
    profile = load_profile("embedded", Settings())
    labeler = Labeler(load_taxonomy(), image_text_scorer(profile), text_embedder(profile))
    names = [*labeler.taxonomy.themes]
    shown = ["fruit", "tools", "fruit"]
    labels = prototypes(labeler.taxonomy.themes, labeler.scorer.embed_texts, TEMPLATES)
    vectors = labels[[names.index(name) for name in shown]]
    looks = Looks(vectors, Fingerprints.stack([], []), ("colour",) * 3)
    silent = np.zeros((3, 384), dtype=np.float32)
    themes = labeler.themes(looks, silent, [""] * 3, 1.0)
    assert [names[row[:-1].argmax()] for row in themes] == shown
    assert np.allclose(labeler.themes(looks, silent, [""] * 3, 0.0), 1 / themes.shape[1])
    sketch = labeler.scorer.embed_texts(["watercolor"] * 3)
    looks = Looks(sketch, looks.prints, looks.tones)
    styles = labeler.manners(looks, [""] * 3, labeler.taxonomy.styles, 1.0)
    assert styles.shape == (3, len(labeler.taxonomy.styles) + 1)
    assert np.allclose(styles, styles[0])
    assert 0 <= labeler.vocabulary(labeler.taxonomy.style_synonyms()).low < 0.6


def test_embeddings_are_unit_rows_of_every_image(made: Made) -> None:
    arrays = rows(made)
    assert set(arrays["sha256"].tolist()) == {record.sha256 for record in made.records()}
    for name, width in (("image", 128), ("text", 384)):
        assert arrays[name].shape == (COUNT + 1, width)
        assert arrays[name].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(arrays[name], axis=1), 1, atol=1e-5)


def test_tune_and_evaluate_read_it(made: Made) -> None:
    measures = measure_dataset(made.out, text_embedder(load_profile("embedded", Settings())))
    assert measures.size == 35
    assert measures.resolution == 64
    assert measures.semantic_diversity > 0.3
    prompts, blocked = generate_eval_prompts(made.info, made.records("validation"), 12, 0)
    assert blocked == 0
    assert all(made.info.trigger in prompt.text for prompt in prompts)
    assert not any("unknown" in prompt.text for prompt in prompts)


def test_audit_carries_on_what_went_before(made: Made) -> None:
    table = pq.read_table(made.out / "audit.parquet").to_pylist()
    assert table[0]["stage"] == "crawl"
    assert table[0]["item"] == "http://gallery.test/bad?"
    own = [row for row in table if row["stage"] == "label"]
    assert sorted(row["detail"] for row in own).count("validation") == 6
    assert len(own) == COUNT + 1
    assert {row["verdict"] for row in own} == {"kept"}


def test_again_gives_the_same_and_advice_changes_poor_captions(made: Made, tmp_path: Path) -> None:
    """Five texts are gone; a run with the advice to recaption composes others for those."""
    clean = make_clean(tmp_path / "clean", texts=dict.fromkeys(range(5), ""))
    first = make(tmp_path / "first", clean, trigger="hcxq")
    advised = make(tmp_path / "advised", clean, Advice(recaption=True), trigger="hcxq")
    assert first.info.trigger == "hcxq"
    assert first.report.trigger_given
    assert first.report.captions["found"] == COUNT + 1 - 5
    assert advised.report.captions == {"found": COUNT + 1 - 5, "composed": 5}
    assert all(record.subject for record in (*first.records(), *advised.records()))
    held = {record.sha256 for record in made.records("validation")}
    assert {record.sha256 for record in first.records("validation")} == held
    again = make(tmp_path / "again", made.clean)
    assert again.info == made.info
    assert again.records() == made.records()


def expect(error: type[Exception], says: str, ctx: StageContext, **spec: object) -> None:
    values = {"clean": "c", "topics": TOPICS, **spec}
    with pytest.raises(error, match=says):
        stage.run(LabelSpec.model_validate(values), ctx)


def test_refusals(clean: LocalArtifact, tmp_path: Path) -> None:
    expect(SpecError, "'dog' is a common word", context(tmp_path, clean=clean), trigger="dog")
    advice = artifact(tmp_path, "evaluation")
    expect(ArtifactError, "advice", context(tmp_path, clean=clean, advice=advice))
    expect(ArtifactError, "records.jsonl", context(tmp_path, clean=advice))
    stopped = context(tmp_path, clean=clean)
    stopped.stop.set()
    expect(Interrupted, "asked to stop", stopped)


def test_damaged_pictures_are_dropped_and_too_few_refused(
    clean: LocalArtifact, tmp_path: Path
) -> None:
    shutil.copytree(clean.path, tmp_path / "clean")
    records = list(read_jsonl(clean.path / "records.jsonl", CleanRecord))
    _damage(tmp_path / "clean", records[:2])
    damaged = artifact(tmp_path / "clean", "clean")
    found = make(tmp_path / "some", damaged)
    assert found.report.counts.dropped == {"corrupt": 1, "missing_file": 1}
    assert found.report.counts.kept == COUNT - 1
    reasons = {
        row["item"]: row["reason"]
        for row in pq.read_table(found.out / "audit.parquet").to_pylist()
        if row["stage"] == "label" and row["verdict"] == "dropped"
    }
    assert reasons == {records[0].sha256: "corrupt", records[1].sha256: "missing_file"}
    _damage(tmp_path / "clean", records[:36])
    ctx = context(tmp_path / "few", clean=damaged)
    expect(DataError, r"5 of 41 images are left, .* \(dropped here: corrupt 18, missing", ctx)


def _damage(folder: Path, records: Sequence[CleanRecord]) -> None:
    """Cut one file, remove the next, and so on."""
    for number, record in enumerate(records):
        file = folder / record.file_name
        if number % 2:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(file.read_bytes()[:100])
