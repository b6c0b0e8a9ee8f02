"""One picture: what is measured, what is taken over from the crawl or an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_factory.contracts.records import RawRecord
from lora_factory.contracts.specs import SanitizeSpec
from lora_factory.imaging.hashes import picture_hash
from lora_factory.models.profiles import PACKAGE
from lora_factory.sanitize.earlier import Measured
from lora_factory.sanitize.items import Admitted, Source, admit

SPEC = SanitizeSpec(raw="raw")
MEASURED = Measured("ab" * 32, np.zeros(768, np.uint8), 0.5, 64, 64, None)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    icon = next((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))
    file = tmp_path / "found.png"
    Image.open(icon).convert("RGB").resize((300, 280)).save(file)
    record = RawRecord(
        sha256="0" * 64, file_name=file.name, url="https://e.org/a", width=1, height=1
    )
    return Source(record, file, replayed=False)


def admitted(source: Source, folder: Path, spec: SanitizeSpec = SPEC) -> Admitted:
    found = admit(source, folder, spec)
    assert isinstance(found, Admitted)
    return found


def test_the_hash_is_the_one_the_crawl_takes(source: Source, tmp_path: Path) -> None:
    own = admitted(source, tmp_path)
    assert own.view is not None
    assert own.hash == picture_hash(own.view)


def test_the_crawls_hash_is_taken_over_on_its_own_ground(source: Source, tmp_path: Path) -> None:
    record = source.record.model_copy(update={"perceptual_hash": "cd" * 32})
    found = replace(source, record=record)
    assert admitted(found, tmp_path).hash == "cd" * 32
    other = SPEC.model_copy(update={"ground": "#000000"})
    assert admitted(found, tmp_path, other).hash != "cd" * 32


def test_what_an_earlier_run_measured_is_copied_unread(source: Source, tmp_path: Path) -> None:
    source.file.write_bytes(b"not looked at")
    found = admit(replace(source, replayed=True), tmp_path, SPEC, MEASURED)
    assert isinstance(found, Admitted)
    assert (found.view, found.hash, found.item.record.width) == (None, "ab" * 32, 64)
    assert (tmp_path / f"{'0' * 64}.png").read_bytes() == b"not looked at"


@pytest.mark.parametrize(
    ("changed", "limits", "passes"),
    [
        ({}, {}, True),
        ({}, {"min_side": 65}, False),
        ({}, {"max_side": 63}, False),
        ({"width": 200}, {}, False),
        ({"writing": 0.2}, {}, True),
        ({"writing": 0.21}, {}, False),
    ],
)
def test_other_limits_ask_for_another_look(
    changed: dict[str, float], limits: dict[str, int], passes: bool
) -> None:
    assert replace(MEASURED, **changed).passes(SPEC.model_copy(update=limits)) is passes  # type: ignore[arg-type]
