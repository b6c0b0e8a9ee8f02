from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from lora_factory.contracts.copyright import CopyrightCheck
from lora_factory.contracts.ethics import EthicsReport, ReleaseFacts, TransparencyItem
from lora_factory.contracts.manifest import InputEntry, Manifest
from lora_factory.contracts.records import DatasetRecord, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.guard.bias.audit import not_audited
from lora_factory.guard.ethics import (
    Subject,
    complete_ethics,
    complete_release,
    generate_ethics_report,
    transparency_score,
)
from lora_factory.guard.training_data import Lineage, host_of, read_lineage, summarise
from lora_factory.models.profiles import load_profile
from lora_factory.store.artifacts import open_store

FACTS = ReleaseFacts(
    signature="model.sig",
    bom="bom.json",
    c2pa="serve marks every image",
    watermark_reason="64 px",
    disclosure="README.md",
    takedown="README.md, Removal",
    registry="release.json",
)


def manifest(kind: str, **changes: object) -> Manifest:
    return Manifest.model_validate({
        "kind": kind,
        "stage": kind,
        "stage_version": 1,
        "key": "0" * 24,
        "attempt": "1" * 8,
        "spec": {},
        "code_version": "0.1.0",
        "created_at": datetime(2026, 11, 24, tzinfo=UTC),
        **changes,
    })


def record(sha256: str, licence: str = "MIT", source: str = "https://a.example/1.png") -> object:
    return DatasetRecord(
        file_name=f"{sha256}.png",
        text="a cat, abcd",
        subject="a cat",
        licence=licence,
        source=source,
        sha256=sha256,
    )


def dataset(folder: Path, **changes: object) -> LocalArtifact:
    for part, names in (("train", "abc"), ("validation", "d")):
        (folder / part).mkdir(parents=True)
        write_jsonl(folder / part / "metadata.jsonl", [record(name) for name in names])  # type: ignore[misc]
    rows = [
        ("crawl", "kept", ""),
        ("crawl", "dropped", "opt_out"),
        ("crawl", "dropped", "robots_disallowed"),
        ("sanitize", "dropped", "near_duplicate"),
    ]
    columns = {
        name: [row[n] for row in rows] for n, name in enumerate(("stage", "verdict", "reason"))
    }
    pq.write_table(pa.table(columns), folder / "audit.parquet")
    entry = {"path": "train/a.png", "size": 2_500_000, "sha256": "a" * 64}
    return LocalArtifact(
        folder, manifest("dataset", files=(entry,), **changes), "file:///d", "d" * 64
    )


RAW = manifest(
    "raw", spec={"as_of": "2026-11-24", "source": "web", "topics": ["cats"], "licences": ["MIT"]}
)
WHOLE = Lineage({"raw": RAW}, ("file:///clean", "file:///raw"))


def subject(folder: Path, lineage: Lineage = WHOLE, **changes: object) -> Subject:
    inputs = tuple(
        InputEntry(name=name, manifest_uri=f"file:///{name}", sha256="e" * 64)
        for name in ("dataset", "plan")
    )
    lora = manifest("lora", inputs=inputs, models={"base:emoji": "sha256:1"})
    fields: dict[str, object] = {
        "lora": LocalArtifact(folder, lora, "file:///lora", "f" * 64),
        "dataset": dataset(folder / "data"),
        "lineage": lineage,
        "base": load_profile("embedded", Settings()).base("emoji", "art"),
        "scorer": "clip@1",
        "prompts": 24,
        "calibration": "on sabotaged adapters",
    }
    return Subject(**{**fields, **changes})  # type: ignore[arg-type]


def check(against: str) -> CopyrightCheck:
    return CopyrightCheck.model_validate({
        "against": against,
        "works": 10,
        "n": 24,
        "plain_hits": 0,
        "plain_high": 0.12,
        "calibrated_hits": 0,
        "calibrated_high": 0.12,
        "cosine_cut": 0.95,
        "bits_cut": 4,
        "calibrated_on": 12,
        "passed": True,
        "verbatim_hits": 0,
        "chance": 0.02,
    })


def states(report: EthicsReport) -> dict[str, str]:
    return {item.id: item.state for item in report.transparency}


def test_report_counts_what_is_there(tmp_path: Path) -> None:
    report = generate_ethics_report(subject(tmp_path), not_audited("off"), [check("training")])
    found = states(report)
    at_release = [name for name, state in found.items() if state == "at_release"]
    missing = [name for name, state in found.items() if state == "missing"]
    assert missing == ["bias_audited", "copies_protected"]
    assert "signed" in at_release
    fulfilled = len(found) - len(missing) - len(at_release)
    assert report.transparency_score == pytest.approx(fulfilled / len(found))
    assert len(found) == len(report.transparency)  # no id twice
    assert all(item.evidence for item in report.transparency if item.state == "fulfilled")
    assert {duty.state for duty in report.marking} == {"at_release"}


def test_training_data_is_counted_from_the_records(tmp_path: Path) -> None:
    data = summarise(dataset(tmp_path / "data"), WHOLE)
    assert (data.images, data.train, data.validation) == (4, 3, 1)
    assert data.megabytes == 2.5
    assert data.licences == {"MIT": 4}
    assert data.domains == {"a.example": 4}
    assert data.collected == "2026-11-24"
    assert data.opt_outs_honoured == 2
    assert data.dropped["sanitize: near_duplicate"] == 1
    assert any("robots.txt" in measure for measure in data.opt_out_measures)
    assert any("unknown licence" in measure for measure in data.opt_out_measures)


def test_nothing_is_claimed_of_a_folder_or_without_lineage(tmp_path: Path) -> None:
    folder = Lineage({"raw": manifest("raw", spec={"source": "folder"})}, ("file:///raw",))
    assert summarise(dataset(tmp_path / "1"), folder).opt_out_measures == ()
    broken = Lineage(broken="manifest of clean can't be read here")
    report = generate_ethics_report(subject(tmp_path, broken), not_audited("off"), [])
    found = states(report)
    for name in ("lineage_complete", "collection_dated", "opt_outs_recorded", "copies_training"):
        assert found[name] == "missing", name
    assert report.training_data.collected == "unknown"


def test_a_measure_is_claimed_since_the_crawl_has_it(tmp_path: Path) -> None:
    for version, claimed in ((1, False), (2, True)):
        raw = RAW.model_copy(update={"stage_version": version})
        data = summarise(dataset(tmp_path / str(version)), Lineage({"raw": raw}))
        assert any("TDMRep" in measure for measure in data.opt_out_measures) is claimed


def test_allowing_unknown_licences_is_not_called_a_measure(tmp_path: Path) -> None:
    spec = {**RAW.spec, "allow_unknown_licence": True}
    data = summarise(dataset(tmp_path / "data"), Lineage({"raw": manifest("raw", spec=spec)}))
    assert not any("unknown licence" in measure for measure in data.opt_out_measures)


@pytest.mark.parametrize(
    ("change", "item"),
    [({"scorer": "clip"}, "scorer_named"), ({"calibration": ""}, "scorer_calibrated")],
)
def test_each_lack_is_one_item(tmp_path: Path, change: dict[str, object], item: str) -> None:
    full = generate_ethics_report(subject(tmp_path / "1"), not_audited("off"), [])
    less = generate_ethics_report(subject(tmp_path / "2", **change), not_audited("off"), [])
    assert states(full)[item] == "fulfilled"
    assert states(less)[item] == "missing"
    lost = full.transparency_score - less.transparency_score
    assert lost == pytest.approx(1 / len(full.transparency))


def test_an_unknown_licence_is_told(tmp_path: Path) -> None:
    about = subject(tmp_path)
    file = about.dataset.path / "train" / "metadata.jsonl"
    write_jsonl(file, [record("a", "unknown"), record("b")])  # type: ignore[list-item]
    report = generate_ethics_report(about, not_audited("off"), [])
    item = next(one for one in report.transparency if one.id == "licences_known")
    assert (item.state, item.detail) == ("missing", "2 of 3")


def test_damaged_records_are_not_fulfilled(tmp_path: Path) -> None:
    about = subject(tmp_path)
    (about.dataset.path / "audit.parquet").write_bytes(b"PAR1 no")
    for part in ("train", "validation"):
        (about.dataset.path / part / "metadata.jsonl").write_text("{", encoding="utf-8")
    found = states(generate_ethics_report(about, not_audited("off"), []))
    for name in ("licences_known", "sources_recorded", "drops_recorded", "opt_outs_recorded"):
        assert found[name] == "missing", name


def test_release_completes_the_report(tmp_path: Path) -> None:
    before = generate_ethics_report(subject(tmp_path), not_audited("off"), [])
    after = complete_ethics(before, FACTS)
    assert after.stage == "release"
    assert "at_release" not in states(after).values()
    assert states(after)["signed"] == "fulfilled"
    assert states(after)["watermark_or_reason"] == "fulfilled"  # the reason is given
    assert after.transparency_score > before.transparency_score
    watermark = next(duty for duty in after.marking if "watermark" in duty.duty)
    assert (watermark.state, watermark.detail) == ("missing", "64 px")
    again = EthicsReport.model_validate_json(after.model_dump_json())
    assert again == after


def test_a_release_without_facts_has_nothing_of_it(tmp_path: Path) -> None:
    before = generate_ethics_report(subject(tmp_path), not_audited("off"), [])
    after = complete_ethics(before, ReleaseFacts())
    assert states(after)["signed"] == "missing"
    assert after.transparency_score == before.transparency_score
    assert {duty.state for duty in after.marking} == {"missing"}


@pytest.mark.parametrize(("side", "marked"), [(64, False), (512, True)])
def test_a_releases_folder_completes_its_report(tmp_path: Path, side: int, marked: bool) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    before = generate_ethics_report(subject(tmp_path), not_audited("off"), [])
    (folder / "ethics.json").write_text(before.model_dump_json(), encoding="utf-8")
    (folder / "release.json").write_text("{}", encoding="utf-8")
    weights = {"w": np.zeros(1, dtype=np.float32)}
    save_file(weights, folder / "lora.safetensors", {"modelspec.resolution": f"{side}x{side}"})
    after = complete_release(folder, signed=False)
    assert after is not None
    assert EthicsReport.model_validate_json((folder / "ethics.json").read_bytes()) == after
    found = states(after)
    assert (found["signed"], found["registered"]) == ("missing", "fulfilled")
    assert (found["model_card"], found["bill_of_materials"]) == ("missing", "missing")
    assert found["watermark_or_reason"] == "fulfilled"
    watermark = next(duty for duty in after.marking if "watermark" in duty.duty)
    assert watermark.state == ("fulfilled" if marked else "missing")


def test_a_release_without_a_report_stays_without(tmp_path: Path) -> None:
    assert complete_release(tmp_path, signed=True) is None
    (tmp_path / "ethics.json").write_text('{"stage": "fair"}', encoding="utf-8")
    assert complete_release(tmp_path, signed=True) is None
    assert (tmp_path / "ethics.json").read_text(encoding="utf-8") == '{"stage": "fair"}'


def test_score_of_nothing_is_zero() -> None:
    assert transparency_score([]) == 0.0
    item = TransparencyItem(id="a", question="?", state="at_release")
    assert transparency_score([item]) == 0.0


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("https://A.example:8080/x.png", "a.example"),
        ("file:///x.png", "local folder"),
        ("x.png", "local folder"),
        ("http://[broken", "unknown"),
    ],
)
def test_host_of(source: str, host: str) -> None:
    assert host_of(source) == host


def test_lineage_is_read_from_the_store_and_verified(tmp_path: Path) -> None:
    settings = Settings(store=f"file://{tmp_path}/store", scratch=tmp_path / "scratch")
    store = open_store(settings)

    def commit(kind: str, inputs: tuple[InputEntry, ...]) -> InputEntry:
        folder = tmp_path / kind
        folder.mkdir()
        uri = store.commit(folder, manifest(kind, inputs=inputs))
        address, _, fragment = uri.partition("#sha256=")
        return InputEntry(name=kind, manifest_uri=address, sha256=fragment)

    raw = commit("raw", ())
    clean = commit("clean", (raw,))
    data = LocalArtifact(tmp_path, manifest("dataset", inputs=(clean,)), "file:///d", "d" * 64)
    lineage = read_lineage(data, settings)
    assert not lineage.broken
    assert list(lineage.manifests) == ["clean", "raw"]
    assert lineage.uris[-1].endswith(f"#sha256={raw.sha256}")

    forged = clean.model_copy(update={"sha256": "0" * 64})
    data = LocalArtifact(tmp_path, manifest("dataset", inputs=(forged,)), "file:///d", "d" * 64)
    assert read_lineage(data, settings).broken

    shutil.rmtree(tmp_path / "store" / "raw")
    data = LocalArtifact(tmp_path, manifest("dataset", inputs=(clean,)), "file:///d", "d" * 64)
    assert read_lineage(data, settings).broken == "manifest of raw can't be read here"
    assert read_lineage(data, Settings()).broken  # no store configured
