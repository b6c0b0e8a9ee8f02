"""Fixtures of the data stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sanitize_rig import Cleaned, Raw, Sanitize, commit  # type: ignore[import-not-found]

from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.runner import run_stage


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
