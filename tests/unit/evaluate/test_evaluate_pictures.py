"""Grid and XYZ picture: legible and complete whatever the captions hold."""

import numpy as np
import pytest
from evaluate_reports import HOSTILE, row

from lora_factory.evaluate.grid import BLOCKS, CELL, MAX_PROMPTS, draw_grid, draw_notice


@pytest.mark.parametrize("count", [0, 1, BLOCKS, BLOCKS + 1, MAX_PROMPTS, MAX_PROMPTS + 5])
def test_the_grid_has_a_line_for_every_few_prompts(count: int) -> None:
    sheet = draw_grid([row()] * count, "title", "subtitle")
    black = (np.asarray(sheet) == 0).all(axis=-1).sum()
    # Every LoRA picture here is one black cell; letters are near black only.
    assert round(black / CELL**2) == min(count, MAX_PROMPTS)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (512, 512), (100, 30), (30, 100)])
def test_pictures_of_any_size_fit_their_cells(size: tuple[int, int]) -> None:
    assert draw_grid([row(size=size)] * 4, "t", "s").size == draw_grid([row()] * 4, "t", "s").size


def test_hostile_and_endless_captions_are_drawn_on_one_line() -> None:
    sheet = draw_grid([row(HOSTILE * 100), row("\n\n"), row("")], HOSTILE, "x" * 10_000)
    assert sheet.size == draw_grid([row()] * 3, "t", "s").size


def test_a_notice_is_a_picture_too() -> None:
    assert draw_notice("nothing to show", "because").width > 500
