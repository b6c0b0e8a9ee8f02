"""Data spoiled on purpose, through the real stages: the second attempt, which follows the first
one's advice, shows its words better than the first, and than one that only trains longer.

Each attempt's own evaluation is anchored on its own data, spoiled or not, so that all three
LoRAs are also judged on the same clean dataset, which none was trained on.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from drawn_signs import striped_signs  # type: ignore[import-not-found]

from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.run import MORE_EPOCHS
from lora_factory.contracts.settings import Settings
from lora_factory.evaluate.statistics import geometric_mean
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.integration, pytest.mark.slow]
TOPICS = ("coloured signs",)
SPOILED, EPOCHS = 12, 8
FOUR = ("fidelity", "alignment", "diversity", "efficiency")
QUICK = {
    "threshold": 0.95,
    "choosing": 0,
    "drift": 2,
    "steps": 10,
    **dict.fromkeys(("audit_pictures", "settings_prompts", "xyz_pictures", "attacks"), 0),
}


@dataclass(frozen=True)
class Attempt:
    """A LoRA, its dataset, and the reports of the stages before training."""

    lora: str
    dataset: str
    reports: dict[str, dict[str, Any]]


class Factory:
    """The stages of a run, without Airflow."""

    def __init__(self, work: Path) -> None:
        names = ("spoiled", "clean")
        self.settings = Settings.model_validate({
            "store": (work / "store").as_uri(),
            "scratch": work / "scratch",
            "folders": {name: work / name for name in names},
            "threads": 1,
        })
        self.raw = {}
        for name in names:
            (work / name).mkdir()
            fill(work / name, SPOILED if name == "spoiled" else 0)
            spec = {"topics": TOPICS, "source": "folder", "folder": name}
            self.raw[name] = self.stage("crawl", **spec, as_of=date(2026, 1, 1))[0]

    def stage(self, name: str, **spec: Any) -> tuple[str, Manifest]:
        uri = run_stage(name, spec, self.settings).manifest_uri
        return uri, open_store(self.settings).read_manifest(uri)

    def dataset(self, raw: str, **advice: str) -> tuple[str, dict[str, dict[str, Any]]]:
        clean, sanitized = self.stage("sanitize", raw=raw, **advice)
        data, labelled = self.stage("label", clean=clean, topics=TOPICS, trigger="zqsgn", **advice)
        return data, {"sanitize": sanitized.stats, "label": labelled.stats}

    def train(self, epochs: int, **advice: str) -> Attempt:
        """sanitize → label → tune → train on the spoiled data."""
        data, reports = self.dataset(self.raw["spoiled"], **advice)
        plan, tuned = self.stage("tune", dataset=data, epochs=epochs, **advice)
        lora, _ = self.stage("train", dataset=data, plan=plan)
        return Attempt(lora, data, reports | {"tune": tuned.stats})

    def judge(self, lora: str, dataset: str) -> tuple[str, EvaluationReport]:
        uri, judged = self.stage("evaluate", lora=lora, dataset=dataset, **QUICK)
        return uri, EvaluationReport.model_validate(judged.stats)


def fill(folder: Path, spoiled: int) -> None:
    """Pictures with captions beside them; those of ``spoiled`` pictures go round among them."""
    pictures = striped_signs()
    captions = {name: name for name in pictures}
    wrong = random.Random(0).sample(sorted(pictures), spoiled)
    captions |= dict(zip(wrong, [*wrong[1:], *wrong[:1]], strict=True))
    for number, (name, picture) in enumerate(pictures.items()):
        picture.save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(captions[name])


def tell(what: str, report: EvaluationReport) -> None:
    scores = ", ".join(
        f"{metric.name} {metric.score:.3f}" for metric in report.metrics if metric.score is not None
    )
    log.warning("%s: overall %.3f (%s)", what, report.overall, scores)


def test_a_second_attempt_that_follows_advice_shows_its_words_better(
    tmp_path: Path,
) -> None:
    factory = Factory(tmp_path)
    first = factory.train(EPOCHS)
    advised, judged = factory.judge(first.lora, first.dataset)
    tell("first attempt, own data", judged)
    assert judged.verdict == "fail"
    assert {item.reason for item in judged.advice.items} == {"caption_mismatch"}

    second = factory.train(EPOCHS + MORE_EPOCHS, advice=advised)
    control = factory.train(EPOCHS + MORE_EPOCHS)
    assert second.reports["sanitize"]["followed_advice"]
    assert not control.reports["sanitize"]["followed_advice"]
    clean, _ = factory.dataset(factory.raw["clean"])
    scores = {}
    for name, attempt in (("first", first), ("second", second), ("control", control)):
        _, report = factory.judge(attempt.lora, clean)
        tell(f"{name} attempt, clean data", report)
        scores[name] = {metric.name: metric.score or 0.0 for metric in report.metrics}
        # The overall score is 0 for LoRAs as weak as these, none of whose pictures is as close to
        # the style as a real one (typicality); the article's four scores still grade them.
        scores[name]["four"] = geometric_mean([scores[name][one] for one in FOUR])
    gains = {}
    for what in ("four", "alignment"):
        gains[what] = [scores[n][what] - scores["first"][what] for n in ("second", "control")]
        log.warning("%s: gain with advice %+.3f, without %+.3f", what, *gains[what])
    # What the advice mended are captions, and that two epochs more don't do. On the whole it
    # does not gain (include/docs/LOG.md): the images dropped are missing from the style.
    gain, without = gains["alignment"]
    assert gain > 0.05
    assert gain > without + 0.05
