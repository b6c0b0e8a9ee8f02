"""Grid and page: legible, complete, and harmless whatever the captions hold."""

import re

import numpy as np
import pytest
from PIL import Image

from lora_factory.contracts.evaluation import Advice, EvaluationReport, HardGate, Metric
from lora_factory.evaluate.grid import BLOCKS, CELL, MAX_PROMPTS, GridRow, draw_grid, draw_notice
from lora_factory.evaluate.html import render_html, verdict_in_words

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x07"


def picture(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def row(caption: str = "red apple", size: tuple[int, int] = (64, 64)) -> GridRow:
    return GridRow(caption, picture("red", size), picture("black", size), picture("blue", size))


def report(**changes: object) -> EvaluationReport:
    fields: dict[str, object] = {
        "verdict": "fail",
        "overall": 0.6,
        "overall_low": 0.5,
        "threshold": 0.85,
        "metrics": (
            Metric(name="fidelity", value=0.5, unit="cosine", score=0.6, low=0.5, high=0.7, n=8),
            Metric(name="alignment", value=0.1, unit="cosine", score=None, n=8, note="abstains"),
        ),
        "gates": (HardGate(name="effect", passed=True, detail="moves"),),
        "advice": Advice(reasons=("raise the rank",)),
        "prompts": ("red apple",),
        "trigger": "ohcx",
        "base": "emoji",
        "scorer": "clip@1",
    }
    return EvaluationReport.model_validate({**fields, **changes})


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


def test_the_page_escapes_everything_and_allows_no_script() -> None:
    page = render_html(
        report(
            trigger=HOSTILE,
            scorer=HOSTILE,
            base=HOSTILE,
            gates=(HardGate(name="effect", passed=False, detail=HOSTILE),),
            advice=Advice(reasons=(HOSTILE,)),
        ),
        picture("white"),
    )
    assert "<script" not in page
    assert "<img src=x" not in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src" not in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)


def test_the_page_shows_scores_gates_and_advice() -> None:
    page = render_html(report(), picture("white"))
    for text in ("0.60", "0.50 – 0.70", "abstains", "The LoRA changes pictures", "raise the rank"):
        assert text in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "pass", "overall": 0.9, "overall_low": 0.8}, "Pass: overall 0.90"),
        ({}, "Fail: overall 0.60 (95% interval from 0.50) is below the threshold 0.85"),
        (
            {"gates": (HardGate(name="no_copies", passed=False),)},
            "Fail: gate closed: No copies of training images",
        ),
    ],
)
def test_the_verdict_in_words(changes: dict[str, object], words: str) -> None:
    assert verdict_in_words(report(**changes)).startswith(words)
