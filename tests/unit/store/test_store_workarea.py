from __future__ import annotations

from pathlib import Path

import pytest

from lora_factory.errors import ArtifactError, ConfigurationError
from lora_factory.store.workarea import WorkArea


def test_objects_are_put_once_listed_and_brought(tmp_path: Path) -> None:
    area = WorkArea((tmp_path / "area").as_uri())
    assert area.put_once("images/a.png", b"first")
    assert not area.put_once("images/a.png", b"second")
    area.put("chunks/1.jsonl", b"x")
    area.put("chunks/1.jsonl", b"y")
    assert area.read("images/a.png") == b"first"
    assert area.read("chunks/1.jsonl") == b"y"
    assert list(area.names("images")) == ["images/a.png"]
    assert list(area.names("nothing")) == []
    area.bring("images/a.png", tmp_path / "out" / "images" / "a.png")
    assert (tmp_path / "out" / "images" / "a.png").read_bytes() == b"first"
    area.clear()
    assert list(area.names("images")) == []


def test_bringing_twice_is_no_error(tmp_path: Path) -> None:
    area = WorkArea((tmp_path / "area").as_uri())
    area.put("a", b"1")
    area.bring("a", tmp_path / "a")
    area.bring("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_what_is_gone_is_named(tmp_path: Path) -> None:
    area = WorkArea((tmp_path / "area").as_uri())
    with pytest.raises(ArtifactError, match=r"area/a is gone"):
        area.bring("a", tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"area/b is gone"):
        area.read("b")


def test_a_url_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="can't be opened"):
        WorkArea("nonsense://x")
