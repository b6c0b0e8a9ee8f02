"""What the stage writes for people: settings, XYZ picture and model card, of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluate_samples import TRIGGER, Run
from huggingface_hub import ModelCard
from PIL import Image

from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.evaluate import stage

SPEC = EvaluateSpec(
    lora="l", dataset="d", prompts=4, steps=2, choosing=2, drift=2, audit_pictures=0,
    settings_prompts=2, xyz_pictures=12,
)  # fmt: skip
STEP = "checkpoints/step-000020.safetensors"


@pytest.fixture
def files(context: Run, untrained: Path, dataset: Path) -> tuple[EvaluationReport, Path]:
    ctx = context(untrained, dataset, checkpoints={STEP: untrained})
    return stage.run(SPEC, ctx), ctx.out


def test_people_find_what_they_look_for(files: tuple[EvaluationReport, Path]) -> None:
    report, out = files
    # Settings: strengths × two numbers of steps, each with a time; the LoRA changes nothing.
    assert report.settings is not None
    tried = [(trial.strength, trial.steps) for trial in report.settings.trials]
    assert tried == [(s, n) for n in (1, 2) for s in (0.7, 1.0, 1.3)]
    assert all(trial.seconds > 0 for trial in report.settings.trials)
    assert {trial.style for trial in report.settings.trials if trial.steps == 2} == {0.0}
    assert report.settings.prompts == 2
    # XYZ: two checkpoints × three strengths × two seeds of one prompt.
    with Image.open(out / "xyz.png") as sheet:
        assert sheet.width > 800
        assert sheet.height > 2 * 128
    # The card's front matter and samples point into the artifact.
    card = ModelCard((out / "README.md").read_text())
    assert card.data.instance_prompt == TRIGGER
    assert card.data.base_model_relation == "adapter"
    assert len(card.data.widget) == 4
    for sample in card.data.widget:
        assert (out / sample["output"]["url"]).is_file()
    assert "has failed its evaluation" in card.text
    # One report, told thrice.
    stored = json.loads((out / "report.json").read_text())
    assert stored["settings"]["strength"] == report.settings.strength
    assert stored["data"] == {
        "train": 90, "validation": 12, "resolution": 64, "licences": {"MIT": 102},
        "hosts": {"example.org": 102}, "dropped": {},
    }  # fmt: skip
    page = (out / "report.html").read_text()
    for part in ("Recommended settings", "Checkpoint × strength × seed", "Drift", "example.org"):
        assert part in page
