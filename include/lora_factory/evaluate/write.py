"""Writes the files of an evaluation artifact (listed in ``stage``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.records import write_jsonl
from lora_factory.evaluate.audit import write_ethics
from lora_factory.evaluate.data import open_image
from lora_factory.evaluate.evaluator import NAMES, LoRAEvaluator
from lora_factory.evaluate.grid import MAX_PROMPTS, GridRow, draw_grid
from lora_factory.evaluate.html import (
    ReportPictures,
    nearest_in_words,
    render_html,
    verdict_in_words,
)

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


class PairRecord(Contract):
    """One line of ``pairs.jsonl``: what made a pair, and the training image nearest to it."""

    file_name: str = Field(description="Under images/base and images/lora")
    prompt: str
    seed: int
    nearest: str = Field(description="sha256-named file of the dataset's train folder")
    similarity: float = Field(description="Cosine of the LoRA's picture with it")
    hash_distance: int = Field(ge=0, le=64, description="Bits")
    copied: bool


def write_pictures(out: Path, evaluator: LoRAEvaluator) -> None:
    """``images/`` and ``pairs.jsonl``."""
    for side, images in (("base", evaluator.base), ("lora", evaluator.lora)):
        folder = out / "images" / side
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / f"{number:04d}.png")
    pairs = zip(evaluator.prompts, evaluator.nearest, strict=True)
    write_jsonl(
        out / "pairs.jsonl",
        (
            PairRecord(
                file_name=f"{number:04d}.png",
                prompt=prompt.text,
                seed=prompt.seed,
                nearest=evaluator.data.train_files[nearest.index].name,
                similarity=round(nearest.similarity, 4),
                hash_distance=nearest.distance,
                copied=nearest.copied,
            )
            for number, (prompt, nearest) in enumerate(pairs)
        ),
    )


def rows_of(evaluator: LoRAEvaluator) -> list[GridRow]:
    """What the grid and the page show, prompt by prompt."""
    return [
        GridRow(
            prompt.text,
            base,
            lora,
            open_image(evaluator.data.train_files[nearest.index]),
            f"seed {prompt.seed}; {nearest_in_words(nearest)}",
        )
        for prompt, base, lora, nearest in zip(
            evaluator.prompts[:MAX_PROMPTS],
            evaluator.base[:MAX_PROMPTS],
            evaluator.lora[:MAX_PROMPTS],
            evaluator.nearest[:MAX_PROMPTS],
            strict=True,
        )
    ]


def drift_of(evaluator: LoRAEvaluator) -> list[GridRow]:
    """Base and LoRA on the drift prompts."""
    return [
        GridRow(prompt.text, base, lora, note=f"seed {prompt.seed}")
        for prompt, base, lora in zip(
            evaluator.splits.drift, evaluator.drift_base, evaluator.drift_lora, strict=True
        )
    ]


def grid_of(rows: Sequence[GridRow], report: EvaluationReport) -> Image:
    """``grid.png``."""
    scores = ", ".join(
        f"{metric.name} {'abstains' if metric.score is None else f'{metric.score:.2f}'}"
        for metric in report.metrics
        if metric.name in NAMES
    )
    return draw_grid(
        rows, f"{report.trigger} on {report.base}: {report.verdict} {report.overall:.2f}", scores
    )


def write_report(
    out: Path, report: EvaluationReport, grid: Image, pictures: ReportPictures
) -> None:
    """All files but pictures and card; tells the log what they say."""
    grid.save(out / "grid.png", optimize=True)
    if pictures.xyz is not None:
        pictures.xyz.save(out / "xyz.png", optimize=True)
    (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / "advice.json").write_text(
        report.advice.model_dump_json(indent=2) + "\n", encoding="utf-8"
    )
    (out / "report.html").write_text(render_html(report, pictures), encoding="utf-8")
    if report.ethics is not None:
        write_ethics(out, report.ethics)
    log.info("%s", verdict_in_words(report))
    for metric in report.metrics:
        score = "no score" if metric.score is None else f"{metric.score:.3f}"
        log.info("%s %s, %.3f %s; %s", metric.name, score, metric.value, metric.unit, metric.note)
    for gate in report.gates:
        log.info("gate %s %s: %s", gate.name, "open" if gate.passed else "closed", gate.detail)
