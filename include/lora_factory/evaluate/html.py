"""``report.html``: one file that opens without a server and can't run a script."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.evaluation import EvaluationReport

FOLDER = Path(__file__).parent
GATES = {
    "finite_weights": "Weights are finite",
    "keys_used": "Every weight found its layer",
    "effect": "The LoRA changes pictures",
    "no_blank_images": "No blank pictures",
    "no_copies": "No copies of training images",
    "shows_subjects": "Pictures show their subjects",
    "style_measurable": "The scorer sees the style",
}


def verdict_in_words(report: EvaluationReport) -> str:
    """One sentence: pass or fail, and why."""
    failed = [GATES.get(gate.name, gate.name) for gate in report.gates if not gate.passed]
    score = f"overall {report.overall:.2f} (95% interval from {report.overall_low:.2f})"
    if report.verdict == "pass":
        return f"Pass: {score} reaches the threshold {report.threshold:.2f}, and every gate is open"
    if failed:
        return f"Fail: gate closed: {', '.join(failed)}; {score}"
    return f"Fail: {score} is below the threshold {report.threshold:.2f}"


def render_html(report: EvaluationReport, grid: Image) -> str:
    """The report as a page; all text is escaped, the picture is inside the file."""
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    # The page may use this one style sheet and inlined pictures; nothing else is allowed.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        words=verdict_in_words(report),
        gates=GATES,
        style=style,
        style_hash=f"sha256-{digest}",
        grid=_data_uri(grid),
    )


def _data_uri(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
