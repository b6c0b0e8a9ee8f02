"""dataset + plan [+ parent] → lora.

Writes ``lora.safetensors`` (loads in plain diffusers), up to three earlier snapshots of the
same format (``checkpoints/step-000080.safetensors``), ``training.jsonl``, ``loss.png``,
``tensorboard/``, and pictures drawn on the way (``samples/step-000080-0.png``).
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lora_factory.contracts.base import Counts
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.options import TrainOptions
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl
from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.contracts.training import TrainPlan, TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, ModelError, SpecError
from lora_factory.models.loaders import limit_threads
from lora_factory.models.profiles import BaseEntry, load_profile
from lora_factory.train.adaptive import adapt_rank
from lora_factory.train.cache import EncodingCache, open_cache
from lora_factory.train.data import load_split
from lora_factory.train.launch import followers
from lora_factory.train.loop import Data, LoRATrainer
from lora_factory.train.plot import plot_losses
from lora_factory.train.reload import check_reload
from lora_factory.train.samples import Samples, sample_prompts
from lora_factory.train.sampling import probe_batches
from lora_factory.train.state import Adapter
from lora_factory.train.team import use_own_device

if TYPE_CHECKING:
    from pathlib import Path

    from torch.nn import Parameter

    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger(__name__)
KIND: Kind = "lora"
VERSION = 4
SPEC = TrainSpec
ADAPTER = "trained"


def roles(spec: TrainSpec) -> tuple[str, ...]:  # noqa: ARG001 - the plan names the base
    """Any base may be the plan's, and a changed base must give a new artifact."""
    return ("bases",)


def run(spec: TrainSpec, ctx: StageContext) -> TrainReport:
    """Encode, train, write.

    Raises:
        TrainingError: training diverged.
        ModelError: the base is missing or not the one the plan was made for, or the parent
            doesn't fit it.
        ArtifactError: dataset or plan can't be read.
        Interrupted: asked to stop; the next run goes on from the checkpoint.
    """
    limit_threads(ctx.settings)
    plan, info = read_inputs(ctx)
    plan = with_options(spec, plan)
    base = load_base(plan_entry(spec, plan, ctx))
    with open_cache(ctx.settings) as cache:  # held open: what this run uses isn't evicted
        return _train(spec, plan, info, base, cache, ctx)


def follow(spec: TrainSpec, ctx: StageContext) -> None:
    """Train as one of several processes, of which the first runs :func:`run`.

    Raises:
        FactoryError: as :func:`run`.
    """
    limit_threads(ctx.settings)
    use_own_device()
    plan = with_options(spec, read_inputs(ctx)[0])
    base = load_base(plan_entry(spec, plan, ctx))
    with open_cache(ctx.settings) as cache:
        data = load_data(plan, base, cache, ctx)
    base.release_encoders()
    parameters = attach_adapter(spec, plan, base, ctx)
    LoRATrainer(plan, base, data, Adapter(ADAPTER, parameters, _writes_nothing), ctx).train()


def _writes_nothing(file: Path, step: int) -> None:
    """The first process writes."""


def load_data(
    plan: TrainPlan, base: DiffusionBase, cache: EncodingCache, ctx: StageContext
) -> Data:
    """Both splits, encoded.

    Raises:
        ArtifactError: there is no training image, or one can't be read.
    """
    train = load_split("train", plan, base, ctx, cache)
    if train is None:
        msg = f"dataset {ctx.inputs['dataset'].path} has no training image; label it again"
        raise ArtifactError(msg)
    validation = load_split("validation", plan, base, ctx, cache)
    if validation is None:
        log.warning("no validation split: the probe uses training images and can't see overfitting")
    return Data(train, validation or train)


def _train(
    spec: TrainSpec,
    plan: TrainPlan,
    info: DatasetInfo,
    base: DiffusionBase,
    cache: EncodingCache,
    ctx: StageContext,
) -> TrainReport:
    data = load_data(plan, base, cache, ctx)
    train = data.train
    base.release_encoders()
    parameters = attach_adapter(spec, plan, base, ctx)
    header = metadata(plan, info, ctx)

    def save(file: Path, step: int) -> None:
        base.save_adapter(ADAPTER, file, {**header, "ss_steps": str(step)})

    prompts = sample_prompts(ctx, plan.options.samples)
    samples = Samples(plan, base, prompts, ctx)
    with followers(spec, ctx):
        adapter = Adapter(ADAPTER, parameters, save)
        trainer = LoRATrainer(plan, base, data, adapter, ctx, samples=samples)
        outcome = trainer.train()
    file = ctx.out / "lora.safetensors"
    save(file, outcome.best_step)
    check_reload(base, ADAPTER, file, probe_batches(train, base)[0])
    cut = None
    if plan.options.adaptive_rank:
        cut = adapt_rank(base, ADAPTER, file, outcome.before, trainer.validation_loss)
    checkpoints = trainer.snapshots.publish(ctx.out, outcome.steps, outcome.best_step)
    shutil.copyfile(ctx.scratch / "training.jsonl", ctx.out / "training.jsonl")
    if trainer.monitor.events is not None:
        trainer.monitor.events.publish(ctx.out)
    plot_losses(trainer.monitor, outcome.best_step, ctx.out / "loss.png")
    return TrainReport(
        counts=Counts(seen=len(train), kept=len(train)),
        base=plan.base,
        trigger=info.trigger,
        rank=max(cut.ranks.values()) if cut else int(parameters[0].shape[0]),
        steps=outcome.steps,
        best_step=outcome.best_step,
        resumed_from=outcome.resumed_from,
        train_loss=trainer.monitor.recent_loss(),
        validation_loss_before=outcome.before,
        validation_loss=cut.probe_after if cut else outcome.best,
        images_per_second=outcome.images_per_second,
        peak_memory_mb=peak_memory_mb(base.device),
        buckets=train.shapes,
        cut_captions=train.cut_captions,
        cache=cache.use,
        stopped_by=outcome.stopped_by,
        actions=tuple(trainer.monitor.actions),
        checkpoints=checkpoints,
        samples=samples.publish(ctx.out, outcome.steps),
        truncation=cut,
        advice=plan.advice,
    )


def read_inputs(ctx: StageContext) -> tuple[TrainPlan, DatasetInfo]:
    """``plan.json`` and ``dataset.json``.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    file = ctx.inputs["plan"].path / "plan.json"
    try:
        plan = TrainPlan.model_validate_json(file.read_bytes())
        file = ctx.inputs["dataset"].path / "dataset.json"
        info = DatasetInfo.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"{file} can't be read; make its artifact again"
        raise ArtifactError(msg) from err
    return plan, info


def with_options(spec: TrainSpec, plan: TrainPlan) -> TrainPlan:
    """The plan with the options that the spec asks for instead of the plan's.

    Raises:
        SpecError: they don't go together.
    """
    if not spec.options:
        return plan
    try:
        options = TrainOptions.model_validate(plan.options.model_dump() | spec.options)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        msg = f"options of the training: {first['msg']}"
        raise SpecError(msg) from err
    return plan.model_copy(update={"options": options})


def plan_entry(spec: TrainSpec, plan: TrainPlan, ctx: StageContext) -> BaseEntry:
    """The base of the plan, unchanged since the plan was made.

    Raises:
        ModelError: it changed.
    """
    entry = load_profile(spec.profile, ctx.settings).base(plan.base, plan.domain)
    if entry.resolve_revision() != plan.base_revision:
        msg = f"base {plan.base!r} changed since the plan was made; tune again"
        raise ModelError(msg)
    return entry


def attach_adapter(
    spec: TrainSpec, plan: TrainPlan, base: DiffusionBase, ctx: StageContext
) -> list[Parameter]:
    """A fresh adapter by the plan, or the parent's weights in the parent's rank and layers."""
    if "parent" not in ctx.inputs:
        return base.add_adapter(
            ADAPTER,
            plan.rank,
            plan.alpha,
            plan.target_modules,
            seed=plan.seed,
            rank_stabilized=plan.options.adapter == "rslora",
        )
    parent = base.read_adapter(ctx.inputs["parent"].path / spec.parent_checkpoint)
    alpha = plan.alpha / plan.rank * parent.rank
    parameters = base.add_adapter(ADAPTER, parent.rank, alpha, tuple(parent.layers))
    base.copy_into_adapter(ADAPTER, parent)
    log.info("going on from the parent's weights (rank %d)", parent.rank)
    return parameters


def metadata(plan: TrainPlan, info: DatasetInfo, ctx: StageContext) -> dict[str, str]:
    """What a file's header tells besides the family's own keys (modelspec, kohya ``ss_*``).

    All but the step, which each file has its own of.
    """
    dataset = ctx.inputs["dataset"]
    records = list(read_jsonl(dataset.path / "train" / "metadata.jsonl", DatasetRecord))
    tags = Counter(word for record in records for word in record.labels.keywords)
    return {
        "modelspec.title": f"{info.domain}_{info.style}",
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.trigger_phrase": info.trigger,
        "ss_output_name": info.trigger,
        "ss_learning_rate": str(plan.learning_rate),
        "ss_num_train_images": str(len(records)),
        "ss_tag_frequency": json.dumps({info.trigger: dict(tags.most_common(200))}),
        "lora_factory.base": plan.base,
        "lora_factory.base_revision": plan.base_revision,
        "lora_factory.dataset_sha256": dataset.sha256,
        "lora_factory.licences": json.dumps(Counter(record.licence for record in records)),
    }


def peak_memory_mb(device: str) -> float:
    """Peak memory of the accelerator, or of this process where there is none, MiB."""
    import torch

    if device == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
