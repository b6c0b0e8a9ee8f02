"""A takedown through a real store and a real catalog: what contains an item, what was made with
it, and that nothing of it goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lora_factory.__main__ import main
from lora_factory.contracts.base import Contract
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.records import (
    CleanRecord,
    DatasetRecord,
    RawRecord,
    write_jsonl,
)
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import DeploySpec
from lora_factory.contracts.stage import StageContext
from lora_factory.contracts.takedown import Reach
from lora_factory.deploy import stage as deploy
from lora_factory.errors import ArtifactError, SpecError
from lora_factory.store.artifacts import ArtifactStore, open_store
from lora_factory.store.catalog import Catalog
from lora_factory.store.takedown import find_reach, taken_down_with

pytestmark = pytest.mark.integration
A, B, C = "a" * 64, "b" * 64, "c" * 64
PAGE = "https://site.example/gallery?page=1"
URLS = {
    A: "https://site.example/a.png",
    B: "https://site.example/b.png",
    C: "https://else.example/c",
}


def raw_record(sha256: str, url: str = "", page: str = PAGE) -> RawRecord:
    return RawRecord(
        sha256=sha256,
        file_name=f"images/{sha256}.png",
        url=url or URLS[sha256],
        page_url=page,
        licence="MIT",
        width=64,
        height=64,
    )


def clean_record(sha256: str) -> CleanRecord:
    raw = raw_record(sha256)
    return CleanRecord(
        sha256=sha256,
        file_name=raw.file_name,
        url=raw.url,
        page_url=raw.page_url,
        text="a thing",
        text_source="alt",
        alignment=None,
        licence="MIT",
        width=64,
        height=64,
    )


def dataset_record(sha256: str) -> DatasetRecord:
    return DatasetRecord(
        file_name=f"{sha256}.png",
        text="x, a thing",
        subject="a thing",
        licence="MIT",
        source=URLS[sha256],
        sha256=sha256,
    )


class Factory:
    """Commits artifacts with a lineage, as the runner does."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.store, self.folder = settings, open_store(settings), folder

    def make(
        self, kind: Kind, key: str, inputs: dict[str, str], **files: Sequence[Contract]
    ) -> str:
        folder = self.folder / kind / key
        for name, records in files.items():
            file = folder / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(file.with_suffix(".jsonl"), records)
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            InputEntry(
                name=name,
                manifest_uri=uri.partition("#")[0],
                sha256=uri.rpartition("=")[2],
            )
            for name, uri in inputs.items()
        ]
        draft = Manifest(
            kind=kind,
            stage="x",
            stage_version=1,
            key=key,
            attempt="a",
            spec={},
            inputs=tuple(entries),
            code_version="0",
            created_at=datetime.now(UTC),
        )
        return self.store.commit(folder, draft)

    def raw(self, key: str, *records: RawRecord) -> str:
        return self.make("raw", key, {}, records=records)

    def clean(self, key: str, raw: str, *images: str) -> str:
        return self.make("clean", key, {"raw": raw}, records=[clean_record(i) for i in images])

    def dataset(self, key: str, clean: str, train: str, held: str = "") -> str:
        parts = {"train__metadata": [dataset_record(i) for i in train.split()]}
        if held:
            parts["validation__metadata"] = [dataset_record(i) for i in held.split()]
        return self.make("dataset", key, {"clean": clean}, **parts)


@pytest.fixture
def factory(settings: Settings, tmp_path: Path) -> Factory:
    return Factory(settings, tmp_path / "made")


@pytest.fixture
def lineage(factory: Factory) -> dict[str, str]:
    """Two lines: one with A (and a LoRA that goes on from its LoRA), one where A was dropped.

    The first evaluation's advice is an input of the second line: numbers, no pictures.
    """
    f, made = factory, dict[str, str]()
    made["raw"] = f.raw("raw1", raw_record(A), raw_record(B))
    made["clean"] = f.clean("clean1", made["raw"], A, B)
    made["dataset"] = f.dataset("data1", made["clean"], B, held=A)
    made["plan"] = f.make("plan", "plan1", {"dataset": made["dataset"]})
    made["lora"] = f.make("lora", "lora1", {"dataset": made["dataset"], "plan": made["plan"]})
    made["evaluation"] = f.make(
        "evaluation", "eval1", {"lora": made["lora"], "dataset": made["dataset"]}
    )
    made["release"] = f.make("release", "rel1", {k: made[k] for k in ("lora", "evaluation")})
    advised = {"raw": made["raw"], "advice": made["evaluation"]}
    made["clean2"] = f.make("clean", "clean2", advised, records=[clean_record(B)])
    made["dataset2"] = f.dataset("data2", made["clean2"], B)
    made["lora2"] = f.make("lora", "lora2", {"dataset": made["dataset2"], "plan": made["plan"]})
    made["child"] = f.make("lora", "lora0", {"dataset": made["dataset2"], "parent": made["lora"]})
    made["grandchild"] = f.make("lora", "lora00", {"parent": made["child"]})
    made["raw2"] = f.raw("raw2", raw_record(C, page=""), raw_record(A, "https://copy.example/x"))
    return made


WITH_A = {"raw1", "clean1", "data1", "lora1", "lora0", "lora00", "eval1", "rel1", "raw2"}


def keys(reach: Reach) -> set[str]:
    return {find.key for find in reach.artifacts}


def model(version: str, lora: str, dataset: str | None = None) -> NewModel:
    return NewModel(
        name="icons",
        version=version,
        sha256=version[0] * 64,
        base="emoji",
        trigger="icnx",
        overall=0.9,
        lora=lora.partition("#")[0],
        evaluation="file:///x/evaluation/k/manifest.json",
        dataset=dataset and dataset.partition("#")[0],
    )


@pytest.mark.parametrize("item", [A, URLS[A], "https://copy.example/x"])
def test_everything_with_an_image_is_found_and_nothing_else(
    factory: Factory, lineage: dict[str, str], item: str
) -> None:
    reach = find_reach(factory.store, None, item)
    assert reach.images == (A,)
    assert keys(reach) == WITH_A
    assert not reach.unreadable
    why = {find.key: find.why for find in reach.artifacts}
    assert why["data1"] == "contains 1 image"
    assert why["lora00"] == "made from lora lora0"


def test_a_page_means_all_its_images(factory: Factory, lineage: dict[str, str]) -> None:
    reach = find_reach(factory.store, None, PAGE)
    assert reach.images == (A, B)
    assert keys(reach) == WITH_A | {"clean2", "data2", "lora2"}


@pytest.mark.parametrize("item", ["d" * 64, "https://site.example/", "https://site.example/a.pn"])
def test_an_unknown_item_is_nowhere(factory: Factory, lineage: dict[str, str], item: str) -> None:
    assert not find_reach(factory.store, None, item).artifacts


def test_an_empty_store_holds_nothing(settings: Settings) -> None:
    assert find_reach(open_store(settings), None, PAGE).images == ()


def test_what_can_not_be_searched_is_named(factory: Factory, lineage: dict[str, str]) -> None:
    root = Path(factory.store.url.removeprefix("file://"))
    (root / "clean" / "clean1" / "a" / "records.jsonl").write_text("{}\n")
    (root / "raw" / "raw2" / "manifest.json").write_text("{}")
    reach = find_reach(factory.store, None, URLS[A])
    assert {uri.split("/")[-2] for uri in reach.unreadable} == {"clean1", "raw2"}
    assert "data1" in keys(reach)


def test_the_command_marks_and_nothing_marked_goes_on(
    factory: Factory,
    lineage: dict[str, str],
    catalog_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    catalog = Catalog(catalog_dsn)
    old = catalog.publish(model("aaaaaaaaaaaa", lineage["lora"], lineage["dataset"]))
    catalog.publish(model("bbbbbbbbbbbb", lineage["lora2"], lineage["dataset2"]))
    catalog.promote("icons", "aaaaaaaaaaaa", "local")
    monkeypatch.setenv("LORA_FACTORY_STORE", factory.settings.store)
    monkeypatch.setenv("LORA_FACTORY_CATALOG", catalog_dsn)
    told = tmp_path / "reach.json"

    assert main(["takedown", "HTTPS://Site.Example:443/a.png#x", "--json", str(told)]) == 0
    assert not catalog.takedowns()
    reach = Reach.model_validate_json(told.read_text())
    assert keys(reach) == WITH_A
    assert [(m.name, m.version, m.live_on) for m in reach.models] == [
        ("icons", "aaaaaaaaaaaa", ("local",))
    ]
    assert "nothing was changed" in capsys.readouterr().out

    assert main(["takedown", URLS[A], "--mark", "--reason", "asked by its author"]) == 0
    out = capsys.readouterr().out
    assert "curl -X DELETE" in out
    assert "/v1/adapters/icons?version=aaaaaaaaaaaa" in out
    assert [(t.item, t.reason) for t in catalog.takedowns()] == [(URLS[A], "asked by its author")]
    assert catalog.taken_down([URLS[A], A, URLS[B], B]) == {URLS[A]: URLS[A], A: URLS[A]}

    shown = {m.version: m.taken_down for m in catalog.models()}
    assert shown == {"aaaaaaaaaaaa": URLS[A], "bbbbbbbbbbbb": None}
    assert main(["catalog", "models"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert ["taken down" in line for line in listed] == [True, False]
    assert [m.taken_down for m in catalog.live_models("local")] == [
        URLS[A]
    ]  # not retired by itself
    assert old.taken_down is None
    with pytest.raises(SpecError, match=r"trained with https://site\.example/a\.png"):
        catalog.publish(model("aaaaaaaaaaaa", lineage["lora"]))
    catalog.promote("icons", "bbbbbbbbbbbb", "local")
    with pytest.raises(SpecError, match="taken down"):
        catalog.rollback("icons", "local")
    with pytest.raises(SpecError, match="taken down"):
        catalog.promote("icons", "aaaaaaaaaaaa", "local")
    live = catalog.live("icons", "local")
    assert live is not None
    assert live.version == "bbbbbbbbbbbb"


def test_marking_again_adds_what_came_since(
    factory: Factory, lineage: dict[str, str], catalog_dsn: str
) -> None:
    catalog = Catalog(catalog_dsn)
    for _ in range(2):
        catalog.mark(find_reach(factory.store, catalog, A), "")
    factory.make("lora", "lora9", {"dataset": lineage["dataset"]})
    catalog.mark(find_reach(factory.store, catalog, A), "told why")
    assert [t.reason for t in catalog.takedowns()] == ["told why"]
    assert catalog.takedown_of("lora", "lora9") is not None
    assert catalog.takedown_of("lora", "lora2") is None


def deploy_lora(settings: Settings, store: ArtifactStore, lora: str, evaluation: str) -> Any:
    inputs = {"lora": store.fetch(lora), "evaluation": store.fetch(evaluation)}
    spec = DeploySpec(lora=lora, evaluation=evaluation, name="icons")
    out = settings.scratch / "out"
    out.mkdir(parents=True, exist_ok=True)
    return deploy.run(spec, StageContext(inputs, out, out, settings, threading.Event()))


def test_deploy_refuses_what_was_made_with_a_taken_down_item(
    factory: Factory, lineage: dict[str, str], catalog_dsn: str
) -> None:
    settings = factory.settings.model_copy(
        update={"catalog": Settings.model_validate({"catalog": catalog_dsn}).catalog}
    )
    catalog = Catalog(catalog_dsn)
    catalog.mark(find_reach(factory.store, catalog, URLS[A]), "")
    with pytest.raises(
        SpecError, match=r"site\.example/a\.png was taken down and is in lora lora1"
    ):
        deploy_lora(settings, factory.store, lineage["lora"], lineage["evaluation"])
    # Made since from an old dataset, and from an old LoRA: nothing marks them yet.
    late = factory.make("lora", "late", {"dataset": lineage["dataset"]})
    copied = factory.dataset("copied", lineage["clean"], A)
    later = factory.make("lora", "later", {"dataset": copied})
    from_old = factory.make("lora", "fromold", {"parent": lineage["lora"]})
    for lora, where in (
        (late, "dataset data1"),
        (later, "dataset copied"),
        (from_old, "lora lora1"),
    ):
        found = taken_down_with(factory.store, catalog, factory.store.read_manifest(lora))
        assert found == (URLS[A], where)
    clean = factory.store.read_manifest(lineage["lora2"])
    assert taken_down_with(factory.store, catalog, clean) == ("", "")


def test_a_lineage_that_is_gone_is_no_pass(
    factory: Factory, lineage: dict[str, str], catalog_dsn: str
) -> None:
    catalog = Catalog(catalog_dsn)
    catalog.mark(find_reach(factory.store, catalog, C), "")
    root = Path(factory.store.url.removeprefix("file://"))
    (root / "dataset" / "data2" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no artifact at"):
        taken_down_with(factory.store, catalog, factory.store.read_manifest(lineage["lora2"]))


def test_marking_needs_a_catalog(
    factory: Factory, lineage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_FACTORY_STORE", factory.settings.store)
    assert main(["takedown", A, "--mark"]) == 1
    assert main(["takedown", A]) == 0


def test_hostile_items_change_nothing_else(factory: Factory, catalog_dsn: str) -> None:
    catalog = Catalog(catalog_dsn)
    for item in ("x'; DROP TABLE takedowns; --", "%", 'folder:a"b\\c.png', "https://x/\u202e"):
        catalog.mark(find_reach(factory.store, catalog, item), "")
        assert catalog.taken_down([item]) == {item: item}
    assert catalog.taken_down(["%%", "https://x/"]) == {}
    assert len(catalog.takedowns()) == 4


def test_a_needle_is_found_however_json_spells_it(factory: Factory) -> None:
    name = 'folder:a "b" ü\\c.png'
    factory.raw("odd", raw_record(A, name))
    assert find_reach(factory.store, None, name).images == (A,)
    written = (
        Path(factory.store.url.removeprefix("file://")) / "raw" / "odd" / "a" / "records.jsonl"
    )
    assert json.loads(written.read_text())["url"] == name
    assert hashlib.sha256(written.read_bytes()).hexdigest()
