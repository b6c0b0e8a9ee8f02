"""dataset → plan: a complete training configuration, each value with its reason.

Writes ``plan.json`` (:class:`TrainPlan`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lora_factory.contracts.base import Counts
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import DatasetInfo
from lora_factory.contracts.specs import TuneSpec
from lora_factory.contracts.stage import StageContext, read_advice
from lora_factory.contracts.training import Measurements, TrainPlan, TuneReport
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.objective import best_precision
from lora_factory.errors import SpecError
from lora_factory.models.loaders import limit_threads, text_embedder
from lora_factory.models.profiles import BaseEntry, load_profile
from lora_factory.models.tokenizers import known_to, load_tokenizer
from lora_factory.tune.measure import DatasetMeasures, StepCost, measure_dataset, measure_step
from lora_factory.tune.tuner import LoRATuner

if TYPE_CHECKING:
    from pathlib import Path

    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger(__name__)
KIND: Kind = "plan"
VERSION = 3
SPEC = TuneSpec
WARMUP_SHARE = 0.05


def roles(spec: TuneSpec) -> tuple[str, ...]:
    """The domain, hence the base, is only known once the dataset is read: then all bases."""
    return ("text_embedder", f"base:{spec.base}" if spec.base else "bases")


def run(spec: TuneSpec, ctx: StageContext) -> TuneReport:
    """Measure, recommend, write ``plan.json``.

    Raises:
        SpecError: the profile has no such base, or that base knows the trigger word.
        ModelError: the base is missing or wrongly shaped.
        ArtifactError: the dataset or the advice can't be read.
    """
    limit_threads(ctx.settings)
    profile = load_profile(spec.profile, ctx.settings)
    dataset = measure_dataset(ctx.inputs["dataset"].path, text_embedder(profile))
    entry = profile.base(spec.base, dataset.domain)
    check_trigger(ctx.inputs["dataset"].path, entry)
    tuner = LoRATuner(dataset, entry, read_advice(ctx))
    base = load_base(entry)
    ctx.check_stop()
    plan = recommend_config(spec, tuner, base)
    for field, reason in plan.reasons.items():
        log.info("%s = %s: %s", field, getattr(plan, field), reason)
    (ctx.out / "plan.json").write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    for change in tuner.followed:
        log.info("followed advice: %s", change)
    return TuneReport(
        counts=Counts(seen=dataset.size, kept=dataset.size),
        plan=plan,
        followed_advice=tuple(tuner.followed),
    )


def check_trigger(dataset: Path, entry: BaseEntry) -> None:
    """Refuse a trigger word that this base knows.

    Labelling asked the bases of its own profile; the dataset may come from another.

    Raises:
        SpecError: the word is one token of the base.
    """
    word = DatasetInfo.model_validate_json((dataset / "dataset.json").read_bytes()).trigger
    if known_to(word, {entry.name: load_tokenizer(entry)}) is not None:
        msg = (
            f"trigger {word!r} of the dataset is a single token of base {entry.name!r}, which "
            "already means something by it; label again with this profile, or choose another base"
        )
        raise SpecError(msg)


def recommend_config(spec: TuneSpec, tuner: LoRATuner, base: DiffusionBase) -> TrainPlan:
    """The article's ``recommend_config``, timed on this machine."""
    entry, dataset, reasons = tuner.entry, tuner.dataset, tuner.reasons
    rank = tuner.calculate_rank()
    targets = tuner.select_target_modules()
    batch = tuner.calculate_batch_size()
    cost = measure_step(base, rank, targets, batch)
    accumulation = batch // cost.batch_size
    if accumulation > 1:
        reasons["batch_size"] += f"; {cost.batch_size} at a time fit the memory"
    steps = tuner.calculate_steps(spec.epochs, batch, cost.seconds_per_image, spec.max_minutes)
    reasons["resolution"] = _resolution_reason(entry, dataset)
    return TrainPlan(
        base=tuner.select_base_model(spec.base),
        base_revision=entry.resolve_revision(),
        domain=dataset.domain,
        rank=rank,
        alpha=tuner.calculate_alpha(rank),
        target_modules=targets,
        learning_rate=tuner.calculate_lr(),
        batch_size=cost.batch_size,
        gradient_accumulation=accumulation,
        epochs=spec.epochs,
        repeats=tuner.calculate_repeats(),
        steps=steps,
        warmup_steps=min(round(steps * WARMUP_SHARE), 100),
        resolution=entry.resolution,
        caption_dropout=tuner.calculate_caption_dropout(),
        mixed_precision=best_precision(base.device),
        weight_decay=tuner.calculate_weight_decay(),
        options=tuner.choose_options(),
        seed=spec.seed,
        measurements=_measurements(dataset, cost),
        reasons=reasons,
        advice=tuner.advice,
    )


def _measurements(dataset: DatasetMeasures, cost: StepCost) -> Measurements:
    return Measurements(
        size=dataset.size,
        semantic_diversity=dataset.semantic_diversity,
        visual_variance=dataset.visual_variance,
        domain=dataset.domain,
        device=cost.device,
        memory_gb=cost.memory_gb,
        seconds_per_image=cost.seconds_per_image,
    )


def _resolution_reason(entry: BaseEntry, dataset: DatasetMeasures) -> str:
    text = f"native to base {entry.name!r}; images are {dataset.resolution} (median, shorter side)"
    return text + ", enlarged" if dataset.resolution < entry.resolution else text
