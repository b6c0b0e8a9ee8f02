"""What label leaves for people and other programs: card, page, imagefolder, exports, vectors."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from lxml import html
from PIL import Image, ImageFilter

from llm_server import GOOD, llm_server
from lora_factory.__main__ import main
from lora_factory.contracts.base import Counts
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetInfo,
    DatasetRecord,
    RawRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.guard.images import image_filter
from lora_factory.label import stage
from lora_factory.label.pictures import dropped_thumbnails
from lora_factory.label.report import LabelReport
from lora_factory.models.profiles import PACKAGE, load_profile
from lora_factory.reporting.page import picture_uri
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import ArtifactStore, open_store

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))[:24]
HOSTILE = '"><script>alert(1)</script><img src=http://evil.test/x onerror=alert(1)> \u202e\ud800'


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Inputs:
    """A raw artifact with a clean one made of it; ``dropped``: reason → sha256."""

    settings: Settings
    clean: str
    raw: Manifest
    dropped: dict[str, str]


def commit(
    store: ArtifactStore, folder: Path, kind: Kind, inputs: tuple[InputEntry, ...] = ()
) -> str:
    draft = Manifest(
        kind=kind,
        stage="crawl" if kind == "raw" else "sanitize",
        stage_version=1,
        key=hashlib.sha256(kind.encode()).hexdigest()[:24],
        attempt="a1b2c3d4",
        spec={},
        inputs=inputs,
        counts=Counts(),
        code_version="test",
        created_at=datetime.now(UTC),
    )
    return store.commit(folder, draft)


def make_inputs(work: Path) -> Inputs:
    """24 icons kept; a copy, a blurred, an unsafe and a taken-down one dropped."""
    settings = Settings(
        store=(work / "store").as_uri(), scratch=work / "scratch", min_images=4, threads=1
    )
    raw, clean = work / "raw", work / "clean"
    for folder in (raw, clean):
        (folder / "images").mkdir(parents=True)
    images = [Image.open(file).convert("RGB") for file in ICONS]
    extra = {
        "near_duplicate": images[0].resize((80, 80)),
        "blurred": images[1].filter(ImageFilter.GaussianBlur(6)),
        "unsafe_image": images[2].rotate(90),
        "taken_down": images[3].rotate(90),
    }
    records, kept, audit, dropped = [], [], [], {}
    for number, (reason, image) in enumerate([*(("", i) for i in images), *extra.items()]):
        data = png(image)
        sha256 = hashlib.sha256(data).hexdigest()
        url = f"http://gallery.test/{number}.png"
        name = f"images/{sha256}.png"
        (raw / name).write_bytes(data)
        common = {"sha256": sha256, "file_name": name, "url": url, "width": 64, "height": 64}
        records.append(RawRecord.model_validate({**common, "licence": "MIT"}))
        if reason:
            dropped[reason] = sha256
            detail = f"of {kept[0].sha256}" if reason == "near_duplicate" else HOSTILE
            audit.append(
                AuditRecord(
                    item=sha256,
                    what="image",
                    stage="sanitize",
                    verdict="dropped",
                    reason=reason,
                    detail=detail,
                )
            )
            continue
        text = HOSTILE if number == 5 else ICONS[number].stem.replace("-", " ")
        source = "none" if number == 6 else "alt"
        kept.append(
            CleanRecord.model_validate({
                **common,
                "text": "" if number == 6 else text,
                "text_source": source,
                "licence": HOSTILE if number == 7 else "MIT" if number % 2 else "CC-BY-4.0",
                "page_title": HOSTILE,
            })
        )
        (clean / name).write_bytes(data)
    audit.append(
        AuditRecord(
            item=f"http://evil.test/{HOSTILE}",
            what="page",
            stage="crawl",
            verdict="dropped",
            reason="off_topic",
        )
    )
    write_jsonl(raw / "records.jsonl", records)
    write_jsonl(clean / "records.jsonl", kept)
    write_jsonl(clean / "audit.jsonl", audit)
    store = open_store(settings)
    uri = commit(store, raw, "raw")
    entry = InputEntry(name="raw", manifest_uri=uri, sha256=uri.rpartition("=")[2])
    return Inputs(
        settings, commit(store, clean, "clean", (entry,)), store.read_manifest(uri), dropped
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("label"))


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset, from the store."""

    uri: str
    path: Path
    report: LabelReport

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo.model_validate_json((self.path / "dataset.json").read_bytes())

    def records(self, split: str) -> list[DatasetRecord]:
        return list(read_jsonl(self.path / split / "metadata.jsonl", DatasetRecord))


def label(inputs: Inputs, settings: Settings | None = None, **spec: object) -> Dataset:
    settings = settings or inputs.settings
    values = {"clean": inputs.clean, "topics": ["emoji icons"], **spec}
    uri = run_stage("label", values, settings).manifest_uri
    found = open_store(settings).fetch(uri)
    return Dataset(uri, found.path, LabelReport.model_validate(found.manifest.stats))


@pytest.fixture(scope="module")
def dataset(inputs: Inputs) -> Dataset:
    return label(inputs)


def thumbnail(inputs: Inputs, reason: str) -> str:
    """The picture as the page would hold it."""
    data = open_store(inputs.settings).read_file(inputs.raw, f"images/{inputs.dropped[reason]}.png")
    return str(picture_uri(Image.open(io.BytesIO(data))))


def test_the_page_shows_what_may_be_shown(dataset: Dataset, inputs: Inputs) -> None:
    page = (dataset.path / "report.html").read_text(encoding="utf-8")
    assert thumbnail(inputs, "near_duplicate") in page
    assert thumbnail(inputs, "blurred") in page
    assert thumbnail(inputs, "unsafe_image") not in page
    assert thumbnail(inputs, "taken_down") not in page
    text = " ".join(" ".join(html.document_fromstring(page).itertext()).split())
    for words in ("24 pictures kept", "4 images left out", "out of focus", "2 alike", "MIT"):
        assert words in text, words
    assert text.count("not shown") == 2


def test_the_page_can_run_nothing_and_load_nothing(dataset: Dataset) -> None:
    page = (dataset.path / "report.html").read_text(encoding="utf-8")
    tree = html.document_fromstring(page)
    assert not tree.xpath("//script | //iframe | //object | //link | //a | //form")
    assert not tree.xpath("//@*[starts-with(name(), 'on')] | //@style")
    assert all(uri.startswith("data:image/") for uri in tree.xpath("//@src"))
    policy = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "\u202e" not in page
    assert "alert(1)" in page  # it is there, as text


def test_the_card_is_what_the_hub_reads(dataset: Dataset) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard((dataset.path / "README.md").read_text(encoding="utf-8"))
    assert card.data.license == ["other", "cc-by-4.0", "mit"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.configs[0]["data_files"][0] == {"split": "train", "path": "train/**"}
    body = card.text.replace("\\_", "_")
    for row in (
        "| sanitize | image | near_duplicate | 1 |",
        "| crawl | page | off_topic | 1 |",
        "| gallery.test | 24 |",
        "| CC-BY-4.0 | 12 |",
    ):
        assert row in body, row
    assert not re.search(r"(?<!\\)[<>]", card.text)  # all of them escaped


def test_hugging_faces_datasets_reads_it_as_it_is(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    for how in (("imagefolder", {"data_dir": str(dataset.path)}), (str(dataset.path), {})):
        found = datasets.load_dataset(how[0], **how[1], cache_dir=str(tmp_path / "cache"))
        assert set(found) == {"train", "validation"}
        for split in found:
            wanted = dataset.records(split)
            rows = {row["sha256"]: row for row in found[split]}
            assert set(rows) == {record.sha256 for record in wanted}
            for record in wanted:
                row = rows[record.sha256]
                assert row["text"] == record.text
                assert row["licence"] == record.licence
                assert row["labels"]["theme"] == list(record.labels.theme)
                assert row["image"].size == (64, 64)


def test_every_row_of_the_joint_vectors_is_named(dataset: Dataset) -> None:
    vectors = np.load(dataset.path / "embeddings.npy", mmap_mode="r")
    index = [json.loads(line) for line in (dataset.path / "embeddings.jsonl").open()]
    assert vectors.shape == (24, 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [line["row"] for line in index] == list(range(24))
    assert all((dataset.path / line["file_name"]).is_file() for line in index)
    parts = np.load(dataset.path / "embeddings.npz", allow_pickle=False)
    assert [line["sha256"] for line in index] == parts["sha256"].tolist()
    # Between picture and words: nearer to the picture than other items' vectors are.
    cosines = vectors @ parts["image"].T
    assert np.mean(np.diag(cosines)) > np.mean(cosines) + 0.05


def command(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setenv("LORA_FACTORY_STORE", inputs.settings.store)
    monkeypatch.setenv("LORA_FACTORY_SCRATCH", str(inputs.settings.scratch))
    return main(["export", *map(str, arguments)])


def test_kohya_gets_a_folder_with_captions(
    dataset: Dataset, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done = command(
        inputs, monkeypatch, dataset.uri, "--format", "kohya", "--to", out, "--repeats", 3
    )
    assert done == 0
    train = out / f"3_{dataset.info.trigger} style"
    for split, folder in (("train", train), ("validation", out / "validation")):
        records = dataset.records(split)
        assert len(list(folder.iterdir())) == 2 * len(records)
        for record in records:
            assert (folder / f"{record.sha256}.txt").read_text("utf-8") == record.text
            data = (folder / f"{record.sha256}.png").read_bytes()
            assert hashlib.sha256(data).hexdigest() == record.sha256
    again = ("--format", "kohya", "--to", out)
    assert command(inputs, monkeypatch, dataset.uri, *again) == 1


def test_webdataset_gets_shards(
    dataset: Dataset, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_factory.label.export.SHARD", 8)
    for out in ("one", "two"):
        to = ("--format", "webdataset", "--to", tmp_path / out)
        assert command(inputs, monkeypatch, dataset.uri, *to) == 0
    shards = sorted((tmp_path / "one" / "train").iterdir())
    records = dataset.records("train")
    assert len(shards) == -(-len(records) // 8)
    names, seen = [], {}
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "two" / "train" / shard.name).read_bytes()
        with tarfile.open(shard) as tar:
            for member in tar:
                names.append(member.name)
                if member.name.endswith(".json"):
                    about = json.loads(tar.extractfile(member).read())
                    seen[about["sha256"]] = about["text"]
    assert seen == {record.sha256: record.text for record in records}
    # A sample's files lie together, as webdataset wants them.
    assert [name.split(".")[0] for name in names[::3]] == [record.sha256 for record in records]


def test_export_refuses_what_is_no_dataset(
    inputs: Inputs, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = ("--format", "kohya", "--to", tmp_path / "x")
    assert command(inputs, monkeypatch, inputs.clean, *to) == 1
    assert command(inputs, monkeypatch, dataset.uri, *to, "--repeats", 0) == 1
    assert not (tmp_path / "x").exists()


def test_no_picture_is_shown_that_the_filter_refuses(inputs: Inputs, tmp_path: Path) -> None:
    """The real filter, with a threshold that everything reaches."""
    profile = load_profile("embedded", inputs.settings)
    strict = profile.role("content_filter").model_copy(update={"threshold": 1e-9})
    refusing = profile.model_copy(update={"roles": {**profile.roles, "content_filter": strict}})
    found = open_store(inputs.settings).fetch(inputs.clean)
    ctx = StageContext({"clean": found}, tmp_path, tmp_path, inputs.settings)
    shas = list(inputs.dropped.values())
    assert dropped_thumbnails(shas, ctx, image_filter(refusing, inputs.settings)) == {}
    shown = dropped_thumbnails(shas, ctx, image_filter(profile, inputs.settings))
    assert set(shown) == set(shas)


def test_a_page_without_the_raw_artifact_has_no_dropped_pictures(
    inputs: Inputs, tmp_path: Path
) -> None:
    found = open_store(inputs.settings).fetch(inputs.clean)
    gone = found.manifest.inputs[0].model_copy(
        update={"manifest_uri": f"{inputs.settings.store}/raw/{'0' * 24}/manifest.json"}
    )
    lost = LocalArtifact(
        found.path, found.manifest.model_copy(update={"inputs": (gone,)}), found.uri, found.sha256
    )
    ctx = StageContext({"clean": lost}, tmp_path, tmp_path, inputs.settings)
    profile = load_profile("embedded", inputs.settings)
    shas = list(inputs.dropped.values())
    assert dropped_thumbnails(shas, ctx, image_filter(profile, inputs.settings)) == {}


def test_an_llm_labels_first_and_the_fallback_does_the_rest(inputs: Inputs, tmp_path: Path) -> None:
    """Answers win; a poor text gives way to what a model that sees says; the rest is zero-shot."""
    text = (PACKAGE / "profiles" / "embedded.toml").read_text()
    (tmp_path / "asking.toml").write_text(
        text.replace('kind = "zero-shot"', 'kind = "llm"\nendpoint_model = "m"\nvision = true')
    )
    with llm_server() as server:
        settings = inputs.settings.model_copy(
            update={"profiles": tmp_path, "llm_url": server.url, "llm_max_tokens": 1300}
        )
        made = label(inputs, settings, profile="asking")
    use = made.report.llm
    assert made.report.labeler == "llm"
    assert use is not None
    assert (use.answered, use.fallback) == (10, {"budget": 14})
    assert use.cost_usd is None  # nobody knows what "m" costs
    records = [*made.records("train"), *made.records("validation")]
    asked = [r for r in records if r.labels.keywords == tuple(GOOD["keywords"])]
    assert len(asked) == 10
    for record in asked:
        assert record.labels.theme == ("pets", "animals")
        assert (record.labels.style, record.labels.confidence) == ("flat icon", 0.9)
    assert made.report.captions.get("llm") == 1
    assert [r.subject for r in asked if r.subject == "brown dog with a red collar"]
    page = (made.path / "report.html").read_text(encoding="utf-8")
    assert "What the LLM cost" in page


def test_without_an_endpoint_the_profile_labels_zero_shot(
    inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (PACKAGE / "profiles" / "embedded.toml").read_text()
    (tmp_path / "asking.toml").write_text(text.replace('kind = "zero-shot"', 'kind = "llm"'))
    settings = inputs.settings.model_copy(update={"profiles": tmp_path})
    assert not stage._asks_llm(load_profile("asking", settings), settings)
    assert "LORA_FACTORY_LLM_URL" in caplog.text
