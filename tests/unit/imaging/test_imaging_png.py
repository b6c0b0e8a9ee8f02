"""PNGs that others read: the same pixels, whatever the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_factory.imaging.png import write_png


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 70), height=st.integers(1, 70), levels=st.integers(1, 256))
def test_pillow_reads_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, levels: int
) -> None:
    rng = np.random.default_rng(width * height)
    pixels = rng.integers(0, levels, (height, width, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("png") / "a.png"
    write_png(Image.fromarray(pixels), file)
    with Image.open(file) as image:
        image.verify()  # checksums
    with Image.open(file) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        assert np.array_equal(np.asarray(image), pixels)


def test_only_rgb(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a L image"):
        write_png(Image.new("L", (4, 4)), tmp_path / "a.png")
