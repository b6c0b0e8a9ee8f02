"""Makers of reports and pictures for the tests of what shows them."""

from __future__ import annotations

from PIL import Image

from lora_factory.contracts.evaluation import (
    Advice,
    CalibrationNote,
    Candidate,
    Comparison,
    DataStatistics,
    EvaluationReport,
    HardGate,
    Metric,
    RecommendedSettings,
    SettingTrial,
)
from lora_factory.evaluate.grid import GridRow

# Markup, a script, a direction override, a control character, a lone surrogate, template and
# Markdown syntax.
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x07\ud800 {{ 7*7 }} "
    "{% raw %}|a|b| [x](javascript:alert(1)) ![y](http://evil.example/z.png) `c` # h\n---\n"
)


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
        "advice": Advice(reasons=("raise the rank",), rank_scale=2.0),
        "prompts": ("red apple",),
        "trigger": "ohcx",
        "base": "emoji",
        "scorer": "clip@1",
    }
    return EvaluationReport.model_validate({**fields, **changes})


def full_report(**changes: object) -> EvaluationReport:
    """A report with every part filled."""
    fields: dict[str, object] = {
        "verdict": "pass",
        "overall": 0.913,
        "overall_low": 0.871,
        "metrics": (
            Metric(
                name="fidelity",
                value=0.7238,
                unit="mean cosine to the style",
                score=0.9121,
                low=0.8504,
                high=0.9795,
                value_low=0.701,
                value_high=0.741,
                n=24,
                note="base 0.093, real images 0.785",
                scorer="clip@1",
            ),
            Metric(name="cmmd", value=0.31, unit="CMMD", score=None, n=24, counted=False),
            Metric(name="drift", value=0.4, unit="kept", score=0.35, n=8, counted=False),
        ),
        "calibration": CalibrationNote(
            scorer="clip@1",
            fitted_on=("ph", "mdi"),
            reported_on=("lucide",),
            good=6,
            sabotaged=18,
            auc=0.973,
            auc_low=0.91,
            auc_high=1.0,
        ),
        "incumbent": Comparison(
            lora="file:///store/lora/old/manifest.json",
            checkpoint="lora.safetensors",
            overall=0.9,
            incumbent=0.85,
            difference=0.05,
            low=0.01,
            high=0.09,
            n=24,
        ),
        "candidates": (
            Candidate(checkpoint="checkpoints/step-000080.safetensors", overall=0.88, n=8),
            Candidate(checkpoint="lora.safetensors", overall=0.91, n=8),
        ),
        "settings": RecommendedSettings(
            strength=1.0,
            steps=10,
            guidance=4.0,
            prompts=5,
            trials=(
                SettingTrial(strength=0.7, steps=10, style=0.71, alignment=None, seconds=0.25),
                SettingTrial(strength=1.0, steps=10, style=0.9, alignment=None, seconds=0.25),
            ),
            note="fewest steps",
        ),
        "data": DataStatistics(
            train=128,
            validation=22,
            resolution=64,
            licences={"MIT": 140, "CC-BY-4.0": 10},
            hosts={"icons.example.org": 150},
            dropped={"crawl: opt_out": 1},
        ),
    }
    return report(**{**fields, **changes})
