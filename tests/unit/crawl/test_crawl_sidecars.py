"""Captions beside a user's own images: each way, hostile ones, and which counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl.folder import FolderShelf
from lora_factory.crawl.own import Inventory, sidecars
from lora_factory.crawl.sidecars import MAX_CAPTION, metadata_captions, sidecar_caption

Make = Callable[[dict[str, bytes]], FolderShelf]


@pytest.fixture
def shelf(tmp_path: Path) -> Make:
    def make(files: dict[str, bytes]) -> FolderShelf:
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return FolderShelf("folder", "mine", tmp_path, "X")

    return make


@pytest.mark.parametrize(
    ("name", "data", "caption"),
    [
        ("a.txt", "\ufeffa red\n fox ".encode(), "a red fox"),
        ("a.TXT", b"a fox", "a fox"),
        ("a.txt", b"\xff\xfe", "\ufffd\ufffd"),
        ("a.json", b'{"caption": "a fox", "url": "x"}', "a fox"),
        ("a.json", b'{"text": "a fox"}', "a fox"),
        ("a.json", b'{"caption": " ", "text": "a fox"}', "a fox"),
        ("a.json", b'{"caption": 7}', ""),
        ("a.json", b'{"caption": "lone \\ud800 half"}', "lone ? half"),
        ("a.json", b"[" * 20_000, ""),
        ("a.json", b'["a fox"]', ""),
        ("a.json", b"no", ""),
        ("a.json", b" " * 70_000, ""),
        ("a.txt", b"x" * (MAX_CAPTION + 1), ""),
    ],
)
def test_a_sidecars_caption(shelf: Make, name: str, data: bytes, caption: str) -> None:
    assert sidecar_caption(name, shelf({name: data})) == caption


def test_lines_of_metadata(shelf: Make, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        b'{"file_name": "a.png", "text": "a fox"}',
        b"",
        b'{"file_name": "deep/b.png", "caption": "an owl"}',
        b'{"text": "of no file"}',
        b'{"file_name": "c.png"}',
        b"nonsense",
        b'{"file_name": "../../etc/d.png", "text": "elsewhere"}',
        b'{"file_name": "e.png", "text": "' + b"x" * 5000 + b'"}',
    ]
    place = shelf({"sub/metadata.jsonl": b"\n".join(lines)})
    with caplog.at_level(logging.WARNING):
        found = dict(metadata_captions("sub/metadata.jsonl", place))
    assert found == {
        "sub/a.png": "a fox",
        "sub/deep/b.png": "an owl",
        "../etc/d.png": "elsewhere",  # names no file of the inventory
    }
    assert "3 lines left out, the first is line 3: no file_name" in caplog.text


def test_a_line_without_end_stops_the_file(shelf: Make, caplog: pytest.LogCaptureFixture) -> None:
    good = b'{"file_name": "a.png", "text": "a fox"}\n'
    place = shelf({"metadata.jsonl": good + b"x" * 3_000_000})
    assert list(metadata_captions("metadata.jsonl", place)) == [("a.png", "a fox")]
    assert "metadata.jsonl left out: too_large" in caplog.text


@given(st.binary(max_size=300))
def test_no_bytes_stop_the_reading(data: bytes) -> None:
    class One:
        kind, name, ahead = "folder", "x", 1

        def files(self) -> object:
            raise NotImplementedError

        def stream(self, path: str) -> object:
            assert path
            yield data

    assert isinstance(sidecar_caption("a.json", One()), str)  # type: ignore[arg-type]
    assert isinstance(sidecar_caption("a.txt", One()), str)  # type: ignore[arg-type]
    for path, caption in metadata_captions("m/metadata.jsonl", One()):  # type: ignore[arg-type]
        json.dumps([path, caption]).encode()


def test_sidecars_of_a_path() -> None:
    assert sidecars("a/b.c/fox.large.png") == ("a/b.c/fox.large.txt", "a/b.c/fox.large.json")
    assert sidecars("fox") == ("fox.txt", "fox.json")


def test_the_inventory_sorts_and_tells_kinds_apart(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "i.sqlite")
    odd = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    for path in ("b.png", "a/metadata.jsonl", "metadata.jsonl", "a/b.txt", "a/b.PNG", odd):
        inventory.add(path, 3)
    assert [path for path, _ in inventory.images()] == ["a/b.PNG", "b.png", odd]
    assert inventory.count() == 3
    assert inventory.metadata() == ["metadata.jsonl", "a/metadata.jsonl"]
    assert inventory.has("a/b.txt")
    assert not inventory.has("b.txt")
    inventory.caption(iter([("b.png", "outer"), ("b.png", "inner")]))
    assert inventory.caption_of("b.png") == "inner"
    assert inventory.caption_of(odd) == ""
    inventory.close()
