"""Letterbox bars go; ground around a drawing, frames and flags stay."""

from __future__ import annotations

import numpy as np
import pytest
from gallery import coloured, gallery  # type: ignore[import-not-found]
from PIL import Image

from lora_factory.imaging.borders import crop_bars
from lora_factory.imaging.decode import decode


def film(size: tuple[int, int], box: tuple[int, int, int, int], colour: str) -> Image.Image:
    """Noise in ``box``, bars of ``colour`` around."""
    image = Image.new("RGB", size, colour)
    noise = Image.effect_noise((box[2] - box[0], box[3] - box[1]), 40).convert("RGB")
    image.paste(noise, box[:2])
    return image


@pytest.mark.parametrize("colour", ["black", "#f0ff00"])
@pytest.mark.parametrize("box", [(0, 20, 128, 90), (30, 0, 100, 96)])
def test_bars_in_pairs_go(box: tuple[int, int, int, int], colour: str) -> None:
    found = crop_bars(film((128, 96), box, colour))
    assert found.size == (box[2] - box[0], box[3] - box[1])


def test_a_jpeg_of_bars(tmp_path: object) -> None:
    import io

    out = io.BytesIO()
    film((160, 128), (0, 24, 160, 104), "black").save(out, "JPEG", quality=80)
    width, height = crop_bars(decode(out.getvalue())).size
    assert width == 160
    assert abs(height - 80) <= 16  # what bleeds over the line belongs to the picture


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((128, 96), (0, 40, 128, 96)),  # one bar: a sky
        ((128, 96), (20, 20, 108, 76)),  # a frame
        ((128, 96), (0, 1, 128, 95)),  # an edge
        ((128, 96), (0, 0, 128, 96)),
    ],
)
def test_other_plain_parts_stay(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = film(size, box, "black")
    assert crop_bars(image) is image


def test_flags_and_plain_pictures_stay() -> None:
    flag = np.full((90, 120, 3), 255, dtype=np.uint8)
    flag[30:60] = (200, 0, 0)
    for pixels in (flag, flag.transpose(1, 0, 2), flag[:1], flag[:, :1], flag[:30]):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        assert crop_bars(image) is image


def test_drawings_keep_their_ground() -> None:
    images = [*gallery().values(), *coloured()]
    assert all(crop_bars(image) is image for image in images)
