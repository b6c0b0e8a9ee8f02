"""``report.html`` and ``compare.html``, harmless as :mod:`lora_factory.reporting.page` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.evaluate.verdict import calibration_notes
from lora_factory.reporting import page

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.evaluation import Advice, EvaluationReport
    from lora_factory.evaluate.grid import GridRow
    from lora_factory.guard.copying import Nearest

FOLDER = Path(__file__).parent
SHOWN = 9
"""Prompts shown at once; the page folds the others away."""
GATES = {
    "finite_weights": "Weights are finite",
    "keys_used": "Every weight found its layer",
    "effect": "The LoRA changes pictures",
    "no_blank_images": "No blank pictures",
    "no_copies": "No copies of training images",
    "no_protected_works": "No copies of protected works",
    "safe_images": "Pictures are safe to show",
    "shows_subjects": "Pictures show their subjects",
    "style_measurable": "The scorer sees the style",
    "beats_incumbent": "Better than the deployed model",
}
METRICS = {
    "fidelity": "how close to the style: 0 the base, 1 as close as real images are",
    "alignment": "how clearly pictures show their subjects: 1 as real images do",
    "diversity": "how varied: 0 all alike, 1 as varied as real images",
    "efficiency": "time for a picture against the base: 1 no slower",
    "typicality": "how often closer to the style than a real image: 1 as often as real ones",
    "adherence": "how far pictures follow their own prompts: 0 by chance",
    "drift": "how little changes on prompts without trigger and style",
    "cmmd": "distance of the set of pictures from the real images",
    "kid": "distance of the set of pictures from the real images",
    "aesthetic": "predicted liking of the picture alone",
    "preference": "predicted preference, given the prompt",
}
VERDICTS = {"pass": "Pass", "fail": "Fail", "needs_person": "Needs a person"}


@dataclass(frozen=True)
class ReportPictures:
    """What the page shows: base | LoRA | nearest original, base | LoRA on drift prompts, XYZ."""

    rows: Sequence[GridRow] = ()
    drift: Sequence[GridRow] = ()
    xyz: Image | None = None


def verdict_in_words(report: EvaluationReport) -> str:
    """One sentence: the verdict, and why."""
    failed = [GATES.get(gate.name, gate.name) for gate in report.gates if not gate.passed]
    low, threshold = f"{report.overall_low:.2f}", f"{report.threshold:.2f}"
    score = f"overall {report.overall:.2f} (95% interval from {low})"
    if report.verdict == "pass":
        return f"Pass: {score} reaches the threshold {threshold}, and every gate is open"
    if report.verdict == "needs_person":
        why = "; ".join(_doubts(report))
        return f"Needs a person: {score} reaches the threshold {threshold}, but {why}"
    if failed:
        return f"Fail: gate closed: {', '.join(failed)}; {score}"
    return f"Fail: {score} does not reach the threshold {threshold} with its lower end"


def _doubts(report: EvaluationReport) -> list[str]:
    if report.calibration is None:
        return ["the scorer is not calibrated, so that no score of its own may pass a LoRA"]
    return ["the evaluation asks for a look"]


def _told(note: str, report: EvaluationReport) -> bool:
    """Whether the page's sentences on the calibration say what a note says."""
    return note in calibration_notes(report.calibration)


def nearest_in_words(nearest: Nearest) -> str:
    """How near a picture is to the training image nearest to it."""
    verdict = "repeats the original" if nearest.copied else "no copy"
    return (
        f"nearest original: cosine {nearest.similarity:.2f}, "
        f"{nearest.distance} of 64 hash bits apart, {verdict}"
    )


def next_steps(report: EvaluationReport) -> list[str]:
    """What to do now, as sentences."""
    if report.verdict == "pass":
        return ["Nothing: the run deploys this LoRA."]
    if report.verdict == "needs_person":
        return [
            "Look at the pictures below: is it the style, do they show their subjects, is "
            "anything in them that must not be published? Then approve or reject the run in "
            "Airflow (Required Actions).",
            "To let runs decide alone, calibrate this scorer (tests/calibration/).",
        ]
    return [*report.advice.reasons, *changes_in_words(report.advice)]


def changes_in_words(advice: Advice) -> list[str]:
    """What the next attempt changes by itself; empty when nothing."""
    found = []
    for name, scale in (
        ("learning rate", advice.learning_rate_scale),
        ("rank", advice.rank_scale),
        ("training steps", advice.steps_scale),
    ):
        if scale != 1.0:
            found.append(f"{name} × {scale:.2g}")
    if advice.weight_decay is not None:
        found.append(f"weight decay {advice.weight_decay:g}")
    if advice.drop_alignment_percentile:
        found.append(f"the worst aligned {advice.drop_alignment_percentile:g}% of images dropped")
    anew = [item for item in advice.items if item.do == "recaption"]
    for count, words in (
        (len(advice.items) - len(anew), "images dropped"),
        (sum(bool(item.text) for item in anew), "images captioned anew"),
        (sum(not item.text for item in anew), "wrong captions taken away"),
    ):
        if count:
            found.append(f"{count} {words}")
    if advice.recaption:
        found.append("the poorest captions written anew")
    return [f"The next attempt does this by itself: {', '.join(found)}."] if found else []


def render_html(report: EvaluationReport, pictures: ReportPictures) -> str:
    """The evaluation as a page."""
    return render(
        "report.html.j2",
        report=report,
        pictures=pictures,
        words=verdict_in_words(report).split(": ", 1)[1],
        shown=SHOWN,
        verdict=VERDICTS[report.verdict],
        steps=next_steps(report),
        notes=[note for note in report.notes if not _told(note, report)],
        gates=GATES,
        metrics=METRICS,
    )


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder."""
    return page.render(FOLDER, template, **values)
