"""The dataset's pictures: bounded, whatever their size."""

from pathlib import Path

import pytest
from PIL import Image

from lora_factory.errors import DataError
from lora_factory.evaluate.data import MAX_SIDE, open_image


def test_a_large_picture_is_shrunk(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 1000)).save(tmp_path / "wide.png")
    assert open_image(tmp_path / "wide.png").size == (MAX_SIDE, 256)


def test_a_huge_picture_is_an_error_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png can't be read: too_many_pixels"):
        open_image(tmp_path / "huge.png")


def test_bytes_that_are_no_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<script>")
    with pytest.raises(DataError, match=r"bad\.png can't be read"):
        open_image(tmp_path / "bad.png")
