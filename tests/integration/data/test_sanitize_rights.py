"""Sanitize through the runner: what was taken down or repeats a protected work is dropped, in a
later run too, and an artifact that neither concerns is found again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from drawn_signs import signs  # type: ignore[import-not-found]
from PIL import Image, ImageOps

from lora_factory.contracts.manifest import Kind, Manifest, StageResult
from lora_factory.contracts.records import (
    AuditRecord,
    CleanRecord,
    DatasetRecord,
    RawRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.takedown import Reach
from lora_factory.errors import ConfigurationError
from lora_factory.guard.indexing import build_index
from lora_factory.guard.protected import SCORER
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import PACKAGE, load_profile
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store
from lora_factory.store.catalog import Catalog

pytestmark = pytest.mark.integration
PAGE = "https://signs.example/page"


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Site:
    """A raw artifact of drawn signs, and what sanitize makes of it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.names: dict[str, str] = {}
        self.raw = self._commit("raw", self._raw())

    def _raw(self) -> Path:
        folder, records = self.folder / "raw", []
        (folder / "images").mkdir(parents=True)
        for number, (name, image) in enumerate(signs().items()):
            data = png(image)
            sha256 = self.names[name] = hashlib.sha256(data).hexdigest()
            (folder / "images" / f"{sha256}.png").write_bytes(data)
            records.append(
                RawRecord(
                    sha256=sha256,
                    file_name=f"images/{sha256}.png",
                    url=f"https://signs.example/{name.replace(' ', '-')}.png",
                    page_url=PAGE if number < 3 else "https://signs.example/other",
                    alt=name,
                    licence="MIT",
                    width=64,
                    height=64,
                )
            )
        write_jsonl(folder / "records.jsonl", records)
        return folder

    def dataset(self, name: str) -> str:
        """A parent's dataset with one sign."""
        folder, sha256 = self.folder / "dataset", self.names[name]
        (folder / "train").mkdir(parents=True)
        image = (self.folder / "raw" / "images" / f"{sha256}.png").read_bytes()
        (folder / "train" / f"{sha256}.png").write_bytes(image)
        record = DatasetRecord(
            file_name=f"{sha256}.png",
            text=name,
            subject=name,
            licence="MIT",
            source=f"https://signs.example/{name.replace(' ', '-')}.png",
            sha256=sha256,
        )
        write_jsonl(folder / "train" / "metadata.jsonl", [record])
        return self._commit("dataset", folder)

    def _commit(self, kind: Kind, folder: Path) -> str:
        draft = Manifest(
            kind=kind,
            stage="crawl",
            stage_version=1,
            key=f"{kind}1",
            attempt="a",
            spec={},
            code_version="test",
            created_at=datetime.now(UTC),
        )
        return open_store(self.settings).commit(folder, draft)

    def sanitize(self, **settings: Any) -> StageResult:
        made = Settings.model_validate(self.settings.model_dump() | settings)
        return run_stage("sanitize", {"raw": self.raw}, made)

    def read(self, result: StageResult) -> tuple[set[str], dict[str, AuditRecord]]:
        """sha256 of what is kept, and the audit's dropped lines by sha256."""
        path = open_store(self.settings).fetch(result.manifest_uri).path
        kept = {record.sha256 for record in read_jsonl(path / "records.jsonl", CleanRecord)}
        audit = read_jsonl(path / "audit.jsonl", AuditRecord)
        return kept, {line.item: line for line in audit if line.verdict == "dropped"}


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Site:
    return Site(settings, tmp_path / "made")


def taken_down(item: str, *images: str) -> Reach:
    return Reach(item=item, images=images, artifacts=(), catalog=True)


def test_what_was_taken_down_stays_out_of_later_runs(site: Site, catalog_dsn: str) -> None:
    catalog = Catalog(catalog_dsn)
    first = site.sanitize(catalog=catalog_dsn)
    assert "taken_down" not in first.counts.dropped
    # Another deployment's item changes nothing: the artifact is found again.
    catalog.mark(taken_down("https://elsewhere.example/x.png"), "")
    assert site.sanitize(catalog=catalog_dsn).reused

    gone = site.names["red heart"]
    catalog.mark(taken_down("https://signs.example/red-heart.png", gone), "its author asked")
    second = site.sanitize(catalog=catalog_dsn)
    assert not second.reused
    assert second.counts.dropped["taken_down"] == 1
    kept, dropped = site.read(second)
    assert gone not in kept
    assert dropped[gone].reason == "taken_down"
    assert dropped[gone].detail == "https://signs.example/red-heart.png"
    assert gone in site.read(first)[0]  # an artifact is never changed

    # A page: images found on it that nobody had seen when it was marked.
    catalog.mark(taken_down(PAGE), "")
    third = site.sanitize(catalog=catalog_dsn)
    assert third.counts.dropped["taken_down"] == 3
    assert site.sanitize(catalog=catalog_dsn).reused


def test_a_replayed_image_is_taken_down_too(site: Site, catalog_dsn: str) -> None:
    catalog = Catalog(catalog_dsn)
    gone = site.names["blue circle"]
    catalog.mark(taken_down(gone, gone), "")
    settings = Settings.model_validate(site.settings.model_dump() | {"catalog": catalog_dsn})
    spec = {"raw": site.raw, "previous": site.dataset("blue circle")}
    result = run_stage("sanitize", spec, settings)
    assert result.counts.dropped["taken_down"] == 2
    assert gone not in site.read(result)[0]


def test_what_is_taken_down_after_its_shard_was_made_stays_out(
    site: Site, catalog_dsn: str
) -> None:
    """A later attempt reads the parts that were made before the first."""
    settings = Settings.model_validate(site.settings.model_dump() | {"catalog": catalog_dsn})
    parts = [
        run_stage("sanitize.shard", {"raw": site.raw, "shard": at, "shards": 2}, settings)
        for at in range(2)
    ]
    spec = {"raw": site.raw, "parts": [part.manifest_uri for part in parts]}
    gone = site.names["red heart"]
    assert gone in site.read(run_stage("sanitize", spec, settings))[0]
    Catalog(catalog_dsn).mark(taken_down(gone, gone), "its author asked")
    kept, dropped = site.read(run_stage("sanitize", spec, settings))
    assert gone not in kept
    assert dropped[gone].reason == "taken_down"


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[[str], Path]:
    """An index of one sign, mirrored and as JPEG, calibrated on the demo's icons."""

    def make(name: str) -> Path:
        works, profile = tmp_path / "works", load_profile("embedded", Settings())
        works.mkdir()
        ImageOps.mirror(signs()[name]).save(works / "work.jpg", quality=85)
        originals = tmp_path / "originals"
        originals.mkdir()
        for file in sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))[:40]:
            (originals / file.name).write_bytes(file.read_bytes())
        index = build_index(
            works, originals, image_text_scorer(profile), profile.role(SCORER).resolve_revision()
        )
        index.save(tmp_path / "index")
        return tmp_path / "index"

    return make


def test_a_protected_work_is_dropped_or_flagged(
    site: Site, make_index: Callable[[str], Path]
) -> None:
    index = make_index("green heart")
    plain = site.sanitize()
    flagged = site.sanitize(protected=index, protected_policy="flag")
    blocked = site.sanitize(protected=index)
    assert len({one.manifest_uri for one in (plain, flagged, blocked)}) == 3
    work = site.names["green heart"]
    kept, dropped = site.read(blocked)
    assert work not in kept
    assert dropped[work].reason == "protected_work"
    assert dropped[work].detail.startswith("'work.jpg', cosine ")
    assert work in site.read(flagged)[0]
    manifest = open_store(site.settings).read_manifest(flagged.manifest_uri)
    assert manifest.stats["protected_works"] >= 1
    assert manifest.models["protected_index"].endswith(" flag")


def test_a_broken_index_stops_the_stage(site: Site, tmp_path: Path) -> None:
    (tmp_path / "works.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="lora_factory protect"):
        site.sanitize(protected=tmp_path)
