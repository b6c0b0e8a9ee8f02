"""Data spoiled on purpose, through the real stages: the second attempt, which follows the first
one's advice, is the better LoRA.

Each attempt's own evaluation is anchored on its own data, spoiled or not. So both LoRAs are also
judged on the same clean images, which neither was trained on, with the same prompts and seeds.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from drawn_signs import striped_signs  # type: ignore[import-not-found]
from PIL import Image

import lora_factory.demo
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.run import MORE_EPOCHS
from lora_factory.contracts.settings import Settings
from lora_factory.evaluate.statistics import geometric_mean
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]
ICONS = Path(lora_factory.demo.__file__).parent / "gallery" / "icons"
Drawing = tuple[str, Image.Image]
"""Caption and picture."""
QUICK = {
    "choosing": 0,
    "drift": 2,
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

    def __init__(
        self, work: Path, topic: str, spoiled: Sequence[Drawing], clean: Sequence[Drawing]
    ) -> None:
        self.topics = (topic,)
        self.settings = Settings.model_validate({
            "store": (work / "store").as_uri(),
            "scratch": work / "scratch",
            "folders": {name: work / name for name in ("spoiled", "clean")},
            "threads": 1,
        })
        self.raw = {}
        for name, drawings in (("spoiled", spoiled), ("clean", clean)):
            (work / name).mkdir()
            for number, (caption, picture) in enumerate(drawings):
                picture.save(work / name / f"{number:03d}.png")
                (work / name / f"{number:03d}.txt").write_text(caption)
            spec = {"topics": self.topics, "source": "folder", "folder": name}
            self.raw[name] = self.stage("crawl", **spec, as_of=date(2026, 1, 1))[0]

    def stage(self, name: str, **spec: Any) -> tuple[str, Manifest]:
        uri = run_stage(name, spec, self.settings).manifest_uri
        return uri, open_store(self.settings).read_manifest(uri)

    def dataset(
        self, raw: str, held_out: float = 0.15, **advice: Any
    ) -> tuple[str, dict[str, dict[str, Any]]]:
        clean, sanitized = self.stage("sanitize", raw=self.raw[raw], **advice)
        data, labelled = self.stage(
            "label",
            clean=clean,
            topics=self.topics,
            trigger="zqsgn",
            validation_share=held_out,
            **advice,
        )
        return data, {"sanitize": sanitized.stats, "label": labelled.stats}

    def train(self, epochs: int, **advice: Any) -> Attempt:
        """sanitize → label → tune → train on the spoiled data."""
        data, reports = self.dataset("spoiled", **advice)
        plan, tuned = self.stage("tune", dataset=data, epochs=epochs, **advice)
        lora, _ = self.stage("train", dataset=data, plan=plan)
        return Attempt(lora, data, reports | {"tune": tuned.stats})

    def judge(self, what: str, lora: str, dataset: str, **more: Any) -> tuple[str, Judged]:
        uri, judged = self.stage("evaluate", lora=lora, dataset=dataset, **QUICK, **more)
        report = Judged.model_validate(judged.stats)
        scores = ", ".join(f"{name} {score:.3f}" for name, score in report.scores.items())
        log.warning(
            "%s: overall %.3f, at least %.3f (%s)", what, report.overall, report.overall_low, scores
        )
        return uri, report


class Judged(EvaluationReport):
    """An evaluation, its scores by name."""

    @property
    def scores(self) -> dict[str, float]:
        return {one.name: one.score for one in self.metrics if one.score is not None}


def with_another_style() -> tuple[list[Drawing], list[Drawing], set[str]]:
    """80 line icons and 40 signs on striped sand; 72 other line icons; the signs' names."""
    dice = random.Random(0)
    files = sorted(ICONS.glob("*.png"))
    dice.shuffle(files)
    icons = [(file.stem.replace("-", " "), Image.open(file).convert("RGB")) for file in files]
    signs = list(striped_signs().items())
    spoiled = [*icons[:80], *signs]
    dice.shuffle(spoiled)
    return spoiled, icons[80:], {name for name, _ in signs}


def with_shuffled_captions() -> tuple[list[Drawing], list[Drawing]]:
    """40 signs, captions of 13 going round among them; the same with their own."""
    pictures = striped_signs()
    captions = {name: name for name in pictures}
    wrong = random.Random(0).sample(sorted(pictures), 13)
    captions |= dict(zip(wrong, [*wrong[1:], *wrong[:1]], strict=True))
    return [(captions[name], picture) for name, picture in pictures.items()], list(pictures.items())


def test_a_third_of_another_style_is_found_and_the_second_attempt_scores_higher(
    tmp_path: Path,
) -> None:
    spoiled, clean, signs = with_another_style()
    factory = Factory(tmp_path, "line icons", spoiled, clean)
    first = factory.train(epochs=6)
    advised, judged = factory.judge("first attempt, own data", first.lora, first.dataset)
    assert judged.verdict == "fail"
    assert {item.reason for item in judged.advice.items} == {"off_style"}
    names = {}
    for file in (tmp_path / "spoiled").glob("*.png"):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        names[digest] = file.with_suffix(".txt").read_text()
    found = [names[item.sha256] for item in judged.advice.items]
    assert len(set(found) & signs) >= 0.9 * len(found)
    assert len(set(found) & signs) >= 30  # of 40, some of which are near-duplicates

    second = factory.train(epochs=6 + MORE_EPOCHS, advice=advised)
    held_out, _ = factory.dataset("clean", held_out=0.49)
    _, before = factory.judge("first attempt, clean data", first.lora, held_out, prompts=48)
    _, after = factory.judge(
        "second attempt, clean data", second.lora, held_out, prompts=48, incumbent=first.lora
    )
    assert after.overall > before.overall + 0.05
    assert after.overall_low > before.overall_low + 0.05
    assert after.incumbent is not None
    assert after.incumbent.low > 0  # paired, picture by picture


def four(report: Judged) -> float:
    """The article's scores together."""
    names = ("fidelity", "alignment", "diversity", "efficiency")
    return geometric_mean([report.scores[name] for name in names])


def test_wrong_captions_are_taken_away_and_the_second_attempt_shows_its_words(
    tmp_path: Path,
) -> None:
    factory = Factory(tmp_path, "coloured signs", *with_shuffled_captions())
    first = factory.train(epochs=8)
    advised, judged = factory.judge("first attempt, own data", first.lora, first.dataset)
    assert judged.verdict == "fail"
    assert {item.reason for item in judged.advice.items} == {"caption_mismatch"}

    second = factory.train(epochs=8 + MORE_EPOCHS, advice=advised)
    assert second.reports["sanitize"]["followed_advice"]
    held_out, _ = factory.dataset("clean", held_out=0.49)
    _, before = factory.judge("first attempt, clean data", first.lora, held_out)
    _, after = factory.judge("second attempt, clean data", second.lora, held_out)
    assert after.scores["alignment"] > before.scores["alignment"] + 0.05
    # Not asserted: the overall score. Alignment isn't counted in it, and typicality's interval
    # reaches 0 with either LoRA. The article's four together don't lose.
    assert four(after) > four(before) - 0.02
