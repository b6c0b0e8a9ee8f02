"""Two LoRAs of one base on the same prompts and seeds: which is better, if one can tell.

Both are scored as evaluation scores a LoRA, on the same base pictures and real images. What
counts is the paired difference: each bootstrap replicate (prompts, then seeds) holds the same
rows of both, so that what makes a prompt hard for both cancels out. Each LoRA gets its own
trigger word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.contracts.evaluation import HardGate
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.trained import base_of, trained_report
from lora_factory.errors import SpecError
from lora_factory.evaluate import gates, metrics
from lora_factory.evaluate.calibration import constants_of, find_calibration
from lora_factory.evaluate.data import load_style
from lora_factory.evaluate.evaluator import (
    abstains,
    adherence_low,
    counted_quality,
    overall_of,
    pair_up,
)
from lora_factory.evaluate.grid import MAX_PROMPTS, GridRow, draw_grid
from lora_factory.evaluate.html import GATES, METRICS, SHOWN, render
from lora_factory.evaluate.pairs import Adapter, Painter
from lora_factory.evaluate.prompts import split_prompts, with_trigger
from lora_factory.evaluate.statistics import interval, resample, with_estimate
from lora_factory.guard.output import output_guard
from lora_factory.models.loaders import image_text_scorer, limit_threads
from lora_factory.models.profiles import load_profile

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.evaluation import Constants
    from lora_factory.contracts.specs import EvaluateSpec
    from lora_factory.contracts.stage import LocalArtifact, StageContext
    from lora_factory.contracts.training import TrainReport
    from lora_factory.evaluate.data import StyleData
    from lora_factory.evaluate.prompts import EvalPrompt
    from lora_factory.evaluate.statistics import Floats
    from lora_factory.guard.output import OutputGuard
    from lora_factory.models.profiles import BaseEntry, Profile
    from lora_factory.models.roles import ImageTextScorer, Vectors

SCORER = "image_text_scorer"
NAMES = ("fidelity", "alignment", "diversity", "typicality", "adherence", "drift", "overall")
Winner = Literal["A", "B", "unclear"]


class Contestant(Contract):
    """One side of a comparison."""

    lora: str = Field(description="URI of the artifact")
    checkpoint: str
    sha256: str = Field(description="Of the file")
    trigger: str
    rank: int
    steps: int = Field(ge=0, description="Trained")
    gates: tuple[HardGate, ...]


class Difference(Contract):
    """One score of both, and A − B with its 95% interval; None: the metric abstains."""

    metric: Literal[
        "fidelity", "alignment", "diversity", "typicality", "adherence", "drift", "overall"
    ]
    a: float | None = Field(ge=0, le=1)
    b: float | None = Field(ge=0, le=1)
    difference: float | None
    low: float | None
    high: float | None
    n: int = Field(ge=0, description="Pairs")
    better: Winner = Field(description="unclear: the interval holds 0, or the metric abstains")
    note: str = ""


class ComparisonReport(Contract):
    """``report.json`` of a comparison."""

    base: str
    scorer: str
    dataset: str = Field(description="URI of the artifact that prompts and real images come from")
    a: Contestant
    b: Contestant
    differences: tuple[Difference, ...]
    winner: Winner
    words: str
    prompts: tuple[str, ...] = Field(description="With the dataset's own trigger")
    seeds: int = Field(ge=1, description="Pictures a prompt")
    steps: int
    guidance: float
    calibrated: bool = Field(description="Whether the scores' constants were fitted")


@dataclass(frozen=True)
class DrawnBase:
    """The base's pictures, and what the scorer sees of them: both sides are measured on these."""

    images: Sequence[Image]
    seen: Vectors
    quiet: Vectors
    """Of the drift prompts; ``other``: with other seeds."""
    other: Vectors


@dataclass(frozen=True)
class Drawn:
    """One side's pictures, measured."""

    images: Sequence[Image]
    pairs: metrics.Pairs
    drift: metrics.Drift
    gates: tuple[HardGate, ...]


@dataclass(frozen=True)
class Studio:
    """What both sides are drawn and measured with."""

    painter: Painter
    data: StyleData
    scorer: ImageTextScorer
    constants: Constants
    calibrated: bool
    guard: OutputGuard
    prompts: tuple[EvalPrompt, ...]
    quiet: tuple[EvalPrompt, ...]
    """Drift prompts."""

    @cached_property
    def weights(self) -> Floats:
        """(1 + B)×n: every pair once, then the bootstrap's, alike for both sides."""
        spec = self.painter.spec
        dice = np.random.default_rng(spec.seed)
        return with_estimate(resample(len(self.prompts) // spec.seeds, spec.seeds, dice))


def compare(
    loras: tuple[LocalArtifact, LocalArtifact],
    checkpoints: tuple[str, str],
    dataset: LocalArtifact,
    spec: EvaluateSpec,
    ctx: StageContext,
) -> ComparisonReport:
    """Draw, measure, and write ``report.json``, ``compare.html`` and ``compare.png``.

    Args:
        loras: A and B.
        checkpoints: the file of each.
        dataset: where prompts and real images come from.
        spec: prompts, seeds, steps, guidance and profile; its inputs and threshold are not read.
        ctx: ``out`` is filled; pictures are kept in ``scratch``.

    Raises:
        SpecError: the LoRAs are of different bases, or of none that the profile has.
        ModelError: a file doesn't fit the base, or the base has changed since.
        DataError: the dataset can't be used.
        Interrupted: asked to stop; pictures made so far are kept.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    trained = (trained_report(loras[0]), trained_report(loras[1]))
    entry = one_base(profile, loras, trained)
    studio = _studio(profile, entry, dataset, spec, ctx)
    adapters = [
        Adapter.load(studio.painter.base, f"side_{side}", lora.path / file)
        for side, lora, file in zip("ab", loras, checkpoints, strict=True)
    ]
    base = _draw_base(studio)
    a, b = (
        _draw(studio, base, adapter, its.trigger)
        for adapter, its in zip(adapters, trained, strict=True)
    )
    sides = [
        Contestant(
            lora=lora.uri,
            checkpoint=file,
            sha256=adapter.sha256,
            trigger=its.trigger,
            rank=its.rank,
            steps=its.steps,
            gates=side.gates,
        )
        for lora, file, adapter, its, side in zip(
            loras, checkpoints, adapters, trained, (a, b), strict=True
        )
    ]
    report = _report(studio, dataset.uri, sides, _differences(studio, a, b))
    _write(ctx, report, _rows(studio, a, b, base.images))
    return report


def _report(
    studio: Studio, dataset: str, sides: Sequence[Contestant], differences: tuple[Difference, ...]
) -> ComparisonReport:
    """Both sides and their differences → what is told."""
    spec = studio.painter.spec
    winner, words = judge(differences[-1], sides[0].gates, sides[1].gates)
    return ComparisonReport(
        base=studio.painter.base.entry.name,
        scorer=studio.scorer.name,
        dataset=dataset,
        a=sides[0],
        b=sides[1],
        differences=differences,
        winner=winner,
        words=words,
        prompts=tuple(dict.fromkeys(prompt.text for prompt in studio.prompts)),
        seeds=spec.seeds,
        steps=spec.steps,
        guidance=spec.guidance,
        calibrated=studio.calibrated,
    )


def one_base(
    profile: Profile,
    loras: tuple[LocalArtifact, LocalArtifact],
    trained: tuple[TrainReport, TrainReport],
) -> BaseEntry:
    """The base that both LoRAs were trained on, if it is still the same.

    Raises:
        SpecError: they are of two bases, or the profile has no such base.
        ModelError: the base has changed since.
    """
    one, other = trained
    if one.base != other.base:
        msg = (
            f"A is a LoRA of base {one.base!r}, B of base {other.base!r}: nothing can be drawn "
            "alike with both; compare LoRAs of one base"
        )
        raise SpecError(msg)
    entry, _ = (
        base_of(profile, lora, one.base, f"LoRA {name}")
        for name, lora in zip("AB", loras, strict=True)
    )
    return entry


def judge(overall: Difference, a: Sequence[HardGate], b: Sequence[HardGate]) -> tuple[Winner, str]:
    """Which is better: gates first, then the interval of the overall difference."""
    closed = {
        name: [GATES.get(gate.name, gate.name) for gate in found if not gate.passed]
        for name, found in (("A", a), ("B", b))
    }
    if closed["A"] and closed["B"]:
        return "unclear", "Neither may be used: both have closed gates"
    for loser, winner in (("A", "B"), ("B", "A")):
        if closed[loser]:
            words = f"{winner} is better: {loser} has a closed gate ({', '.join(closed[loser])})"
            return ("B" if winner == "B" else "A"), words
    if overall.difference is None or overall.low is None or overall.high is None:
        return "unclear", "Can't tell: no score could be measured"
    span = (
        f"A − B is {overall.difference:+.3f} overall, 95% interval {overall.low:+.3f} to "
        f"{overall.high:+.3f}, on {overall.n} pairs"
    )
    if overall.better == "unclear":
        return "unclear", f"Can't tell which is better: {span}, which holds 0; ask for more prompts"
    return overall.better, f"{overall.better} is better: {span}"


def _studio(
    profile: Profile,
    entry: BaseEntry,
    dataset: LocalArtifact,
    spec: EvaluateSpec,
    ctx: StageContext,
) -> Studio:
    """Load base, scorer, guard and dataset."""
    scorer, revision = image_text_scorer(profile), profile.role(SCORER).resolve_revision()
    calibration = find_calibration(revision, entry.resolve_revision())
    stored = dataset.manifest.models.get(SCORER) == revision
    data = load_style(dataset.path, scorer, stored=stored, check_stop=ctx.check_stop)
    splits = split_prompts(data.info, data.anchors, data.shown, spec)
    return Studio(
        painter=Painter(load_base(entry), entry.resolve_revision(), spec, ctx),
        data=data,
        scorer=scorer,
        constants=constants_of(calibration),
        calibrated=calibration is not None,
        guard=output_guard(profile, ctx.settings),
        prompts=splits.report,
        quiet=splits.drift,
    )


def _draw_base(studio: Studio) -> DrawnBase:
    paint, embed, drift = studio.painter.paint, studio.scorer.embed_images, studio.quiet
    images = paint(studio.prompts, what="base")
    others = [prompt.other_seed() for prompt in drift]
    return DrawnBase(
        images,
        embed(images),
        quiet=embed(paint(drift, what="base, drift")),
        other=embed(paint(others, what="base, drift, other seeds")),
    )


def _draw(studio: Studio, base: DrawnBase, adapter: Adapter, trigger: str) -> Drawn:
    """Draw one side with its own trigger, embed once, and look at its gates."""
    paint, data, prompts = studio.painter.paint, studio.data, studio.prompts
    own = with_trigger(prompts, data.info.trigger, trigger)
    images = paint(own, adapter, what=adapter.name)
    pairs, nearest = pair_up(data, studio.scorer, prompts, base.seen, images)
    still = paint(studio.quiet, adapter, what=f"{adapter.name}, drift")
    quiet = metrics.Drift(base.quiet, base.other, studio.scorer.embed_images(still))
    sight = _sight(studio, pairs)
    found = (
        gates.effect(base.images, images),
        gates.no_blank_images(images),
        gates.no_copies(nearest, data.copies.cuts),
        gates.safe_images(studio.guard.check(images)),
        gates.shows_subjects(
            float(metrics.raw_alignment(pairs)[0]),
            sight,
            studio.constants.least_alignment,
            metrics.own_matches(pairs, np.random.default_rng(studio.painter.spec.seed)),
            adherence_low(pairs, studio.weights),
        ),
    )
    return Drawn(images, pairs, quiet, found)


def _sight(studio: Studio, pairs: metrics.Pairs) -> metrics.Readable:
    spec = studio.painter.spec
    dice = np.random.default_rng(spec.seed)
    return metrics.readable(pairs, len(pairs.anchor) // spec.seeds, dice)


def _differences(studio: Studio, a: Drawn, b: Drawn) -> tuple[Difference, ...]:
    """Every metric of ``NAMES``: both scores, and the paired bootstrap of their difference."""
    spec, constants = studio.painter.spec, studio.constants
    dice = np.random.default_rng(spec.seed)
    weights = studio.weights
    quiet = with_estimate(resample(len(a.drift.base), 1, dice))
    sides: list[dict[str, Floats]] = []
    for side in (a, b):
        scores = dict(metrics.quality_scores(side.pairs, constants, weights))
        scores["drift"] = metrics.scaled(metrics.raw_drift(side.drift, quiet), constants.drift)
        sides.append(scores)
    blind = abstains(a.pairs, _sight(studio, a.pairs))
    counted = counted_quality(constants, blind=blind)
    for scores in sides:
        scores["overall"] = overall_of(scores, counted)
    notes = {name: "not in overall" for name in NAMES if name not in counted}
    notes["overall"] = f"geometric mean of {', '.join(counted)}"
    notes["drift"] = "prompts without trigger and style; not in overall"
    rows = {name: len(a.drift.base) if name == "drift" else len(a.pairs.anchor) for name in NAMES}
    return tuple(
        _unread(rows[name])
        if name == "alignment" and blind
        else difference(name, sides[0][name], sides[1][name], rows[name], notes.get(name, ""))
        for name in NAMES
    )


def difference(name: str, a: Floats, b: Floats, n: int, note: str = "") -> Difference:
    """Estimates (first) and replicates of two sides → their paired difference."""
    gap = a - b
    low, high = interval(gap[1:])
    better = "A" if low > 0 else "B" if high < 0 else "unclear"
    return Difference.model_validate({
        "metric": name,
        "a": float(a[0]),
        "b": float(b[0]),
        "difference": float(gap[0]),
        "low": low,
        "high": high,
        "n": n,
        "better": better,
        "note": note,
    })


def _unread(n: int) -> Difference:
    note = "abstains: the scorer can't read this style, or too few prompts were asked for"
    return Difference.model_validate({
        **dict.fromkeys(("a", "b", "difference", "low", "high")),
        "metric": "alignment",
        "n": n,
        "better": "unclear",
        "note": note,
    })


def _rows(studio: Studio, a: Drawn, b: Drawn, base: Sequence[Image]) -> list[GridRow]:
    """A | B | base of each prompt's first seed."""
    rows = [
        GridRow(prompt.text, mine, its, before, f"seed {prompt.seed}")
        for prompt, mine, its, before in zip(studio.prompts, a.images, b.images, base, strict=True)
    ]
    return rows[:: studio.painter.spec.seeds][:MAX_PROMPTS]


def _write(ctx: StageContext, report: ComparisonReport, rows: Sequence[GridRow]) -> None:
    title = f"A and B on {report.base}: {report.words.split(':')[0]}"
    scores = ", ".join(
        f"{one.metric} {one.difference:+.2f}"
        for one in report.differences
        if one.difference is not None
    )
    sheet = draw_grid(rows, title, f"A minus B: {scores}", ("A", "B", "base"))
    sheet.save(ctx.out / "compare.png", optimize=True)
    page = render_comparison(report, rows)
    (ctx.out / "compare.html").write_text(page, encoding="utf-8")
    # Last: who finds the report finds the others too.
    (ctx.out / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def render_comparison(report: ComparisonReport, rows: Sequence[GridRow]) -> str:
    """The comparison as a page; ``rows`` hold A, B and base in this order."""
    return render(
        "compare.html.j2",
        report=report,
        rows=rows,
        sides=[("A", report.a), ("B", report.b)],
        reason=report.words.partition(": ")[2] or report.words,
        shown=SHOWN,
        gates=GATES,
        metrics=METRICS,
    )
