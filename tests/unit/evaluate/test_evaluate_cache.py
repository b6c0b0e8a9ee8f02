"""Kept pictures: found again, bounded, and made anew when damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_factory.evaluate.cache import PictureCache

KEY = "ab" + "0" * 62


def picture(seed: int, side: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_picture_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    assert cache.get(KEY, 16) is None
    cache.put(KEY, picture(0))
    found = PictureCache(tmp_path).get(KEY, 16)
    assert found is not None
    assert (np.asarray(found) == np.asarray(picture(0))).all()
    assert [file.name for file in tmp_path.rglob("*.*")] == [f"{KEY}.png"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gif", "folder"])
def test_a_damaged_entry_is_none_and_can_be_replaced(tmp_path: Path, damage: str) -> None:
    cache = PictureCache(tmp_path)
    cache.put(KEY, picture(0))
    file = tmp_path / "ab" / f"{KEY}.png"
    whole = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "gif":
        picture(0).save(file, format="GIF")
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hm"}[damage])
    assert cache.get(KEY, 16) is None
    if damage != "folder":
        cache.put(KEY, picture(1))
        assert cache.get(KEY, 16) is not None


def test_a_picture_of_another_size_is_not_taken(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    cache.put(KEY, picture(0, side=8))
    assert cache.get(KEY, 16) is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    size = len(picture_bytes(tmp_path / "probe"))
    cache = PictureCache(tmp_path / "cache", max_bytes=int(2.5 * size))
    keys = [f"{number:064x}" for number in range(4)]
    for age, key in enumerate(keys):
        cache.put(key, picture(age))
        os.utime(tmp_path / "cache" / key[:2] / f"{key}.png", (1000 + age, 1000 + age))
    assert cache.get(keys[0], 16) is not None  # used: now the youngest
    cache.trim()
    kept = [key for key in keys if cache.get(key, 16) is not None]
    assert kept == [keys[0], keys[3]]


def test_trimming_a_folder_that_is_not_there(tmp_path: Path) -> None:
    PictureCache(tmp_path / "none").trim()


def picture_bytes(folder: Path) -> bytes:
    cache = PictureCache(folder)
    cache.put(KEY, picture(9))
    return next(folder.rglob("*.png")).read_bytes()
