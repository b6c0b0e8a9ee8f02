"""An increment doesn't embed the previous dataset's pictures again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sanitize_rig import ICONS, Cleaned, Raw, Sanitize, add_icons, previous_dataset  # type: ignore[import-not-found]

from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import load_profile
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
