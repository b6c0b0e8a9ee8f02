"""Grid and XYZ picture: legible and complete whatever the captions hold."""

import numpy as np
import pytest
from evaluate_reports import HOSTILE, picture, row
from PIL import Image

from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.evaluate.grid import BLOCKS, CELL, MAX_PROMPTS, draw_grid, draw_notice
from lora_factory.evaluate.prompts import EvalPrompt
from lora_factory.evaluate.xyz import STRENGTHS, draw_xyz, fit_axes, label_of


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


def prompts(count: int) -> tuple[EvalPrompt, ...]:
    return tuple(EvalPrompt(f"thing {n}", n, n) for n in range(count))


@pytest.mark.parametrize(
    ("labels", "limit", "kept", "pictures"),
    [
        (("final",), 18, ("final",), 12),  # two prompts, two seeds
        (("step 80", "step 160", "final"), 18, ("step 80", "step 160", "final"), 18),
        (("a", "b", "c", "final"), 18, ("a", "b", "final"), 18),
        (("a", "b", "c", "final"), 6, ("b",), 6),
        (("a", "b", "c", "final"), 3, ("b",), 3),  # one seed
        (("a", "b", "c", "final"), 1, ("b",), 3),  # a row of strengths at the least
    ],
)
def test_axes_keep_to_the_limit_and_hold_the_chosen_checkpoint(
    labels: tuple[str, ...], limit: int, kept: tuple[str, ...], pictures: int
) -> None:
    axes = fit_axes(labels, prompts(5), "b", limit)
    assert axes.checkpoints == kept
    assert axes.pictures == pictures
    assert axes.pictures <= max(limit, len(axes.strengths))


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("lora.safetensors", "final"),
        ("checkpoints/step-000080.safetensors", "step 80"),
        ("checkpoints/other.safetensors", "checkpoints/other"),
    ],
)
def test_files_have_short_names(file: str, label: str) -> None:
    assert label_of(file) == label


class Brush:
    """Stands where the painter does: a plain colour for each checkpoint, lighter with strength."""

    spec = EvaluateSpec(lora="l", dataset="d")

    def __init__(self) -> None:
        self.seeds: list[list[int]] = []

    def paint(
        self, prompts: list[EvalPrompt], adapter: str, *, strength: float, steps: int, what: str
    ) -> list[Image.Image]:
        self.seeds.append([prompt.seed for prompt in prompts])
        shade = round(100 * strength)
        return [picture(f"rgb({shade}, 0, {255 if adapter == 'x' else 0})") for _ in prompts]


def test_the_xyz_picture_has_every_cell_in_its_place() -> None:
    brush = Brush()
    sheet = draw_xyz(brush, {"step 80": "x", "final": "y"}, prompts(3), chosen="final")  # type: ignore[arg-type, dict-item]
    assert len(brush.seeds) == 2 * len(STRENGTHS)
    assert all(len(set(seeds)) == len(seeds) == 2 for seeds in brush.seeds)  # one prompt fits
    pixels = np.asarray(sheet)
    for adapter, blue in (("x", 255), ("y", 0)):
        for strength in STRENGTHS:
            colour = (round(100 * strength), 0, blue)
            count = (pixels == colour).all(axis=-1).sum()
            assert round(count / CELL**2) == 2, (adapter, strength)  # one a seed
    rows = [np.argwhere((pixels == (100, 0, blue)).all(axis=-1))[0] for blue in (255, 0)]
    assert rows[0][0] < rows[1][0]  # the older checkpoint above
    columns = [
        np.argwhere((pixels == (round(100 * strength), 0, 0)).all(axis=-1))[:, 1].min()
        for strength in STRENGTHS
    ]
    assert columns == sorted(columns)
