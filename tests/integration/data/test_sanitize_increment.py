"""An increment looks at none of the previous dataset's pictures again, and finds the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    ICONS,
    Cleaned,
    Raw,
    Sanitize,
    add_icons,
    encoded,
    previous_dataset,
)

from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import SanitizeSpec
from lora_factory.models.content_filters import OpenNsfw
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import load_profile
from lora_factory.runner import run_stage
from lora_factory.sanitize import earlier, items, shard
from lora_factory.sanitize.earlier import SCORER
from lora_factory.sanitize.items import open_images
from lora_factory.store.artifacts import open_store


@pytest.mark.parametrize(("same_scorer", "embedded"), [(True, 3), (False, 9)])
def test_stored_vectors_are_read(
    raw: Raw,
    sanitize: Sanitize,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same_scorer: bool,
    embedded: int,
) -> None:
    add_icons(raw, ICONS[6:9])
    folder, profile = tmp_path / "previous", load_profile("embedded", settings)
    names = previous_dataset(folder, ICONS[:6])
    scorer = image_text_scorer(profile)
    files = [next(folder.glob(f"*/{name}.png")) for name in names]
    vectors = scorer.embed_images(open_images(files))
    np.savez(folder / "embeddings.npz", sha256=np.array(names), image=vectors, text=vectors)
    models = profile.revisions((SCORER,)) if same_scorer else {SCORER: "another"}
    draft = Manifest(
        kind="dataset",
        stage="label",
        stage_version=1,
        key="1" * 24,
        attempt="a",
        spec={},
        models=models,
        code_version="test",
        created_at=datetime.now(UTC),
    )
    previous = open_store(settings).commit(folder, draft)
    count = [0]
    embed = type(scorer).embed_images

    def counted(self: Any, images: Any) -> Any:
        count[0] += len(images)
        return embed(self, images)

    monkeypatch.setattr(type(scorer), "embed_images", counted)
    cleaned: Cleaned = sanitize(raw, previous=previous)
    assert count[0] == embedded
    assert cleaned.report.replayed == 6
    monkeypatch.undo()
    plain: Cleaned = sanitize(raw, previous=previous, force=True)
    assert {r.sha256 for r in cleaned.records} == {r.sha256 for r in plain.records}


class Looks:
    """How many pictures a run decodes, filters and embeds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
        self.decoded = self.filtered = self.embedded = 0
        profile = load_profile("embedded", settings)
        scorer = type(image_text_scorer(profile))
        decode, embed, scores = items.decode, scorer.embed_images, OpenNsfw.scores

        def decoded(data: bytes, **options: Any) -> Any:
            self.decoded += 1
            return decode(data, **options)

        def embedded(model: Any, images: Any) -> Any:
            self.embedded += len(images)
            return embed(model, images)

        def filtered(model: Any, images: Any) -> Any:
            self.filtered += len(images)
            return scores(model, images)

        monkeypatch.setattr(items, "decode", decoded)
        monkeypatch.setattr(scorer, "embed_images", embedded)
        monkeypatch.setattr(OpenNsfw, "scores", filtered)

    def taken(self) -> tuple[int, int, int]:
        """Counts since the last call."""
        found = (self.decoded, self.filtered, self.embedded)
        self.decoded = self.filtered = self.embedded = 0
        return found


def pixels(cleaned: Cleaned) -> dict[str, bytes]:
    found = {}
    for record in cleaned.records:
        with Image.open(cleaned.path / record.file_name) as image:
            found[record.sha256] = image.tobytes()
    return found


def test_only_new_pictures_are_looked_at_and_the_result_is_a_full_runs(
    raw: Raw,
    sanitize: Sanitize,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_icons(raw, ICONS[:8])
    first: Cleaned = sanitize(raw)
    clean = {"clean": first.uri, "topics": ["icons"]}
    previous = run_stage("label", clean, settings).manifest_uri
    later = Raw(tmp_path / "later")
    new = add_icons(later, ICONS[8:11])
    with Image.open(ICONS[0]) as opened:
        copy = later.add(encoded(opened.convert("RGB"), "JPEG", quality=85), "once more")
    looks = Looks(monkeypatch, settings)
    quick: Cleaned = sanitize(later, previous=previous)
    assert looks.taken() == (4, 4, 4)
    assert quick.report.replayed == 8
    assert quick.why(copy) == ["near_duplicate"]
    assert {*new, *first.by_hash} == quick.by_hash.keys()

    third = sanitize(later, previous=previous, max_side=63, force=True)  # they'd be reduced now
    assert looks.taken() == (12, 12, 4)
    assert all(record.width == 63 for record in third.records)

    monkeypatch.setattr(earlier, "MEASURES", 0)
    monkeypatch.setattr(shard, "earlier_vectors", lambda *_: {})
    full: Cleaned = sanitize(later, previous=previous, force=True)
    assert looks.taken() == (12, 12, 12)
    assert [record.model_copy(update={"alignment": None}) for record in quick.records] == [
        record.model_copy(update={"alignment": None}) for record in full.records
    ]
    for old, again in zip(quick.records, full.records, strict=True):
        assert old.alignment == pytest.approx(again.alignment, abs=1e-5)
    assert quick.audit == full.audit
    assert pixels(quick) == pixels(full)


def test_measures_of_another_version_or_of_nobody_are_not_read(
    raw: Raw, sanitize: Sanitize, settings: Settings
) -> None:
    names = add_icons(raw, ICONS[:5])
    cleaned: Cleaned = sanitize(raw)
    artifact = open_store(settings).fetch(cleaned.uri)
    made = earlier.made_by(load_profile("embedded", settings))
    found = earlier.earlier_measures(artifact, set(names[:3]), made)
    assert found.keys() == set(names[:3])
    assert all(each.passes(SanitizeSpec(raw="r")) for each in found.values())
    assert not any(each.passes(SanitizeSpec(raw="r", min_side=65)) for each in found.values())
    assert earlier.earlier_measures(artifact, set(names), made | {"measures": "0"}) == {}
    assert earlier.earlier_measures(artifact, set(names), made | {"text_detector": "x"}) == {}
    assert earlier.earlier_measures(None, set(names), made) == {}
