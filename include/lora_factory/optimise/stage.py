"""Stage optimise: lora + its evaluation → build, by one step.

Files: ``build.json`` (BuildInfo), what the step wrote, ``lora.safetensors``.

Measured before and after on the evaluation's own prompts: size, time of a picture, how far the
pictures are apart. ``worthwhile`` says whether evaluating the build makes sense; only an
evaluation of the build itself (``EvaluateSpec.build``) can pass it.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from pydantic import ValidationError

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.optimise import OptimiseReport
from lora_factory.contracts.specs import OptimiseSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest
from lora_factory.diffusion.builds import BUILD_FILE
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.trained import base_of, trained_report
from lora_factory.errors import SpecError
from lora_factory.models.loaders import limit_threads
from lora_factory.models.profiles import load_profile
from lora_factory.optimise.measure import compare
from lora_factory.optimise.steps import STEPS, Job, Made, copy_lora

log = logging.getLogger(__name__)
KIND: Kind = "build"
VERSION = 1
SPEC = OptimiseSpec
BEFORE, AFTER = "before", "after"
SEED = 1234


def roles(spec: OptimiseSpec) -> tuple[str, ...]:  # noqa: ARG001 - the LoRA names the base
    """Any base may be the LoRA's."""
    return ("bases",)


def run(spec: OptimiseSpec, ctx: StageContext) -> OptimiseReport:
    """Make a build and measure it.

    Raises:
        SpecError: the evaluation is of another LoRA.
        ModelError: the base has changed, the LoRA doesn't fit it, or the step can't be done.
        ConfigurationError: what the step needs isn't installed here.
        Interrupted: asked to stop.
    """
    limit_threads(ctx.settings)
    judged = _judged(ctx.inputs["evaluation"], ctx.inputs["lora"])
    trained = trained_report(ctx.inputs["lora"])
    entry = base_of(load_profile(spec.profile, ctx.settings), ctx.inputs["lora"], trained.base)
    base = load_base(entry)
    file = ctx.inputs["lora"].path / judged.checkpoint
    base.load_adapter(BEFORE, file)
    job = Job(spec, ctx, base, BEFORE, file)
    made = STEPS[spec.step](job)
    copy_lora(job)
    info = made.info(spec.step, base, hashlib.sha256(file.read_bytes()).hexdigest())
    (ctx.out / BUILD_FILE).write_text(info.model_dump_json(indent=1), encoding="utf-8")
    base.load_build(AFTER, ctx.out)
    requests = [
        GenerationRequest(prompt, SEED + number)
        for number, prompt in enumerate(judged.prompts[: spec.pictures])
    ]
    found = compare(base, BEFORE, AFTER, requests, spec.steps, ctx)
    before, after = _sizes(made, base, file, ctx.out)
    report = OptimiseReport(
        counts=Counts(seen=1, kept=1),
        step=spec.step,
        form=made.form,
        bytes_before=before,
        bytes_after=after,
        rank_before=base.read_adapter(file).rank,
        rank_after=_rank_after(made, base, ctx.out),
        seconds_before=round(found.seconds_before, 4),
        seconds_after=round(found.seconds_after, 4),
        difference=round(found.difference, 3),
        change=round(found.change, 3),
        pictures=len(requests),
        worthwhile=found.worthwhile(after / before),
        note="seconds of processor time" if base.device == "cpu" else "seconds by the clock",
    )
    log.info("%s: %s", spec.step, report)
    return report


def _judged(evaluation: LocalArtifact, lora: LocalArtifact) -> EvaluationReport:
    of = {entry.sha256 for entry in evaluation.manifest.inputs if entry.name == "lora"}
    if of != {lora.sha256}:
        msg = f"evaluation {evaluation.uri} is not of LoRA {lora.uri}; evaluate this one"
        raise SpecError(msg)
    try:
        report = EvaluationReport.model_validate(evaluation.manifest.stats)
    except ValidationError as err:
        msg = f"evaluation {evaluation.uri} can't be read by this version; evaluate again"
        raise SpecError(msg) from err
    if not report.prompts:
        msg = f"evaluation {evaluation.uri} drew nothing: a LoRA that can't be loaded has no build"
        raise SpecError(msg)
    return report


def _sizes(made: Made, base: DiffusionBase, lora: Path, out: Path) -> tuple[int, int]:
    """Bytes of what is loaded to draw: a LoRA's file, or denoiser and LoRA against the build."""
    after = sum(file.stat().st_size for file in out.glob(f"{made.file}*"))
    if made.form == "lora":
        return lora.stat().st_size, after
    return base.denoiser_bytes + lora.stat().st_size, after


def _rank_after(made: Made, base: DiffusionBase, out: Path) -> int:
    return base.read_adapter(out / made.file).rank if made.form == "lora" else 0
