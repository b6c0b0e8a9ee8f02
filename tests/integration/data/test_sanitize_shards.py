"""A large input in several shards gives what one shard gives, in one process or in several."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    ICONS,
    Cleaned,
    Raw,
    Sanitize,
    add_icons,
    commit,
    encoded,
    previous_dataset,
)

from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ArtifactError
from lora_factory.runner import run_stage
from lora_factory.sanitize import shard
from lora_factory.sanitize.items import Share


def mixed(raw: Raw) -> None:
    """Icons, an exact copy, a near copy, a broken one, one without a text."""
    add_icons(raw, ICONS[:10])
    add_icons(raw, ICONS[:1])
    with Image.open(ICONS[1]) as opened:
        raw.add(encoded(opened.convert("RGB"), "JPEG", quality=70), "a copy")
    raw.add(ICONS[12].read_bytes()[:-60], "truncated")
    raw.add(ICONS[25].read_bytes(), url="https://example.org/desk-lamp.png")


def same(first: Cleaned, second: Cleaned) -> None:
    def by_name(cleaned: Cleaned) -> dict[str, object]:
        # A cosine in a batch of another size differs in its last digits.
        return {
            record.sha256: record.model_copy(
                update={"alignment": record.alignment and round(record.alignment, 4)}
            )
            for record in cleaned.records
        }

    assert by_name(first) == by_name(second)
    assert first.counts == second.counts
    lines = [sorted(line.model_dump_json() for line in each.audit) for each in (first, second)]
    assert lines[0] == lines[1]


def test_shards_change_nothing(
    raw: Raw, sanitize: Sanitize, settings: Settings, tmp_path: Path
) -> None:
    mixed(raw)
    previous_dataset(tmp_path / "previous", ICONS[8:20])
    previous = commit(settings, tmp_path / "previous", "dataset")
    one = sanitize(raw, previous=previous)
    several = sanitize(raw, previous=previous, shard_images=9)
    assert (one.report.shards, several.report.shards) == (1, 3)
    assert one.report.replayed == several.report.replayed == 12
    assert one.counts.dropped == {"exact_duplicate": 3, "near_duplicate": 1, "corrupt": 1}
    same(one, several)

    spec = {"raw": raw.uri, "previous": previous}
    parts = [
        run_stage("sanitize.shard", spec | {"shard": number, "shards": 3}, settings).manifest_uri
        for number in range(3)
    ]
    mapped = sanitize(raw, previous=previous, parts=parts[::-1])
    assert mapped.report.shards == 3
    same(one, mapped)

    for wrong, message in (
        (parts[:2], "not each shard once"),
        ([*parts[:2], parts[0]], "not each shard once"),
    ):
        with pytest.raises(ArtifactError, match=message):
            sanitize(raw, previous=previous, parts=wrong)
    with pytest.raises(ArtifactError, match="made of something else"):
        sanitize(raw, parts=parts)
    with pytest.raises(ArtifactError, match="made of something else"):
        sanitize(raw, previous=previous, parts=parts, min_side=33)


def test_a_retry_keeps_the_shards_it_finds(
    raw: Raw, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second shard: the first is not done again."""
    add_icons(raw, ICONS[:10])
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    spec = {"raw": commit(settings, raw.folder, "raw"), "shard_images": 5}
    done: list[int] = []
    fill = shard.fill

    def dies(folder: Path, share: Share, *rest: object) -> object:
        done.append(share.number)
        if done == [0, 1]:
            (folder / "images").mkdir()
            raise KeyboardInterrupt
        return fill(folder, share, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shard, "fill", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage("sanitize", spec, settings)
    result = run_stage("sanitize", spec, settings)
    assert done == [0, 1, 1]
    assert result.counts.kept == 10
