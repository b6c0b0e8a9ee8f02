"""The training loop.

An optimizer on the LoRA weights, a schedule, an exponential moving average of the weights (what
is validated and kept), fixed probes, best weights restored, snapshots of earlier ones, a
checkpoint every few seconds and when asked to stop.

A *step* is one batch of the plan's size; all that is drawn for it follows from the seed and its
number. An optimizer step takes one of them, or several once the batch has grown.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.progress import Progress
from lora_factory.errors import TrainingError
from lora_factory.train import optimizers
from lora_factory.train.checkpoint import load_checkpoint, save_checkpoint
from lora_factory.train.loss import objective, perturbed
from lora_factory.train.memory import free_memory, out_of_memory
from lora_factory.train.monitor import ProbePoint, TrainingMonitor
from lora_factory.train.probes import Probes
from lora_factory.train.reactions import Reactions
from lora_factory.train.requests import StopRequests
from lora_factory.train.samples import Samples
from lora_factory.train.sampling import Batch, Sampler, seed_step, split_batch
from lora_factory.train.schedule import lr_factor
from lora_factory.train.snapshots import FOLDER, Snapshots
from lora_factory.train.state import Adapter, TrainingState
from lora_factory.train.team import Team

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.contracts.stage import StageContext
    from lora_factory.contracts.training import StoppedBy, TrainPlan
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.train.data import Split

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_GRAD_NORM = 1.0
PROBE_SCALE = 4  # without gradients, this many training batches fit the memory of one
PROBES = 12  # validation probes in a training, besides the first and the last
PROBE_STEPS = 10  # steps between two probes, at least: they cost time too
CHECKPOINT_SECONDS = 10.0
NAMED = 16  # files of a message, at most


@dataclass(frozen=True)
class Data:
    """Encoded splits; ``validation`` is the training split itself where there is none."""

    train: Split
    validation: Split


@dataclass(frozen=True)
class Outcome:
    """How a training ended; the adapter holds the best weights."""

    steps: int
    best_step: int
    resumed_from: int
    before: float
    best: float
    images_per_second: float
    stopped_by: StoppedBy


class LoRATrainer:
    """Trains the active adapter of ``base``, alone or as one process of a ``team``."""

    def __init__(
        self,
        plan: TrainPlan,
        base: DiffusionBase,
        data: Data,
        adapter: Adapter,
        ctx: StageContext,
        team: Team | None = None,
        *,
        samples: Samples | None = None,
    ) -> None:
        self._plan, self._ctx, self._data = plan, ctx, data
        self._team = team or Team(base.device)
        self._state = TrainingState(plan, base, adapter)
        self._sampler = Sampler(plan, data.train, base)
        self._probes = Probes(plan, base, data.train, data.validation)
        self._objective = self._team.prepare(objective(base, plan))
        self._fingerprint = sha256_json([plan.model_dump(mode="json"), data.train.files])
        file = ctx.scratch / "training.jsonl"
        self.monitor = TrainingMonitor(file, self._probes.images, write=self._team.main)
        self._reactions = Reactions(plan, self._state, self.monitor)
        size = sum(w.numel() * w.element_size() for w in self._state.parameters)
        self._samples = samples
        self.snapshots = Snapshots(ctx.scratch / FOLDER, plan.steps, size, adapter.save)

    def train(self) -> Outcome:
        """Run to the last step, or until something ends it earlier.

        Raises:
            TrainingError: loss or gradient is not finite (names the files), or one image at a
                time is too much for the memory.
            Interrupted: asked to stop; the checkpoint holds every finished step.
        """
        state, plan = self._state, self._plan
        first = self._resume()
        progress = Progress("training", plan.steps, "steps")
        progress.done = first
        started = saved = time.monotonic()
        stopped_by: StoppedBy | None = None
        if not self.monitor.probes:
            self._probe()
        with StopRequests(self._ctx.settings, self._fingerprint[:24], plan.steps) as requests:
            while stopped_by is None and state.step < plan.steps:
                self._heed_signal()
                before, began = state.step, time.monotonic()
                self._within_memory(self._step)
                state.seconds += time.monotonic() - began
                stopped_by = self._after_step(before, requests)
                progress.advance(state.step - before, self._note(first, started))
                if time.monotonic() - saved >= CHECKPOINT_SECONDS or stopped_by is not None:
                    self._checkpoint()
                    saved = time.monotonic()
        seconds = max(time.monotonic() - started, 1e-9)
        return self._finish(first, seconds, stopped_by or "steps")

    def _after_step(self, before: int, requests: StopRequests) -> StoppedBy | None:
        """Probe, snapshot and react; what ends the training, if anything does."""
        state, plan = self._state, self._plan
        requests.step = state.step
        minutes = state.seconds * self._team.size / 60
        minutes, asked = self._team.same((minutes, requests.asked))
        stopped_by = self._reactions.to_limits(minutes, asked=asked)
        every = max(PROBE_STEPS, plan.steps // PROBES)
        due = state.step // every > before // every or state.step >= plan.steps
        if due or stopped_by is not None:
            self._probe()
            stopped_by = stopped_by or self._reactions.to_probe()
        self._reactions.to_gradients(before)
        for step in sorted(self.snapshots.due):  # before the checkpoint that would skip it
            if self._team.main and before < step <= state.step:
                with state.averaged():
                    self.snapshots.write(step)
        if self._samples is not None and self._samples.due(before, state.step):
            with state.averaged():
                self._samples.draw(state.step, state.seconds)
        return stopped_by

    # -- one step

    def _step(self) -> None:
        """One optimizer step."""
        import torch

        state, plan = self._state, self._plan
        first, course = state.step, state.course
        seed_step(plan.seed, first)
        batches = [
            perturbed(
                self._sampler.batch(number, course.caption_dropout),
                plan.options.noise_offset,
                course.noise,
                (plan.seed, number),
            )
            for number in range(first, first + course.batches)
        ]
        loss = self._backward(batches)
        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, MAX_GRAD_NORM)
        if not state.scaler.is_enabled():  # fp16 overflows are the scaler's to skip
            self._check_finite("gradient", norm, batches)
        rate = optimizers.base_rate(plan) * lr_factor(first, plan) * course.learning_rate_scale
        state.update(rate)
        state.step = first + len(batches)
        self.monitor.log({
            "step": state.step,
            "loss": loss,
            "lr": rate,
            "grad_norm": round(norm.item(), 6),
        })

    def _backward(self, batches: Sequence[Batch]) -> float:
        """Gradients of the mean loss over all images of a step; that loss."""
        import torch

        images = sum(map(len, batches))
        shares = [self._team.share(batch) for batch in batches]
        parts = [p for share in shares for p in split_batch(share, self._state.course.micro_batch)]
        total = 0.0
        for part in parts:
            with self._team.gather_gradients(self._objective, now=part is parts[-1]):
                losses = self._objective(part)
                self._check_finite("loss", losses, [part])
                loss = losses.mean() * (len(part) / images)
                self._state.scaler.scale(loss * self._team.size).backward()  # DDP takes the mean
            total += loss.item()
        return float(
            self._team.total(torch.tensor(total, dtype=torch.float64, device=losses.device))
        )

    def _check_finite(self, what: str, value: Tensor, batches: Sequence[Batch]) -> None:
        """Before the weights are touched, so that they are still those of the step before."""
        fine = value.detach().isfinite().flatten().tolist()
        if all(fine):
            return
        indices = [index for batch in batches for index in batch.indices]
        if len(fine) == len(indices):  # one an image: only those that broke it
            indices = [index for index, good in zip(indices, fine, strict=True) if not good]
        files = names(self._data.train, indices)
        worst = value.detach().flatten()[fine.index(False)].item()
        msg = (
            f"training diverged at step {self._state.step + 1}: {what} is {worst} "
            f"(images: {files}); check these images or lower the learning rate; the weights of "
            f"step {self._state.step} are kept in {self._checkpoint()}"
        )
        raise TrainingError(msg)

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do ``work``; where memory runs out, do less of it at a time until it fits."""
        while True:
            try:
                return work()
            except RuntimeError as err:
                if not out_of_memory(err):
                    raise
                self._reactions.to_memory(err, self._team.size)
            self._state.optimizer.zero_grad()
            free_memory()

    # -- probes

    def _probe(self) -> None:
        """Measure both fixed probes with the averaged weights; remember the best."""
        state = self._state
        with state.averaged():
            point = self._within_memory(
                lambda: self._probes.measure(state.step, PROBE_SCALE * state.course.micro_batch)
            )
        point = self._team.same(point)
        self._check_probe(point)
        state.keep_if_best(point.validation)
        self.monitor.log_probe(point)

    def _check_probe(self, point: ProbePoint) -> None:
        train, validation = self._probes.images
        found = []
        for split, images, losses in (
            (self._data.train, train, point.train_losses),
            (self._data.validation, validation, point.validation_losses),
        ):
            broken = [i for i, loss in zip(images, losses, strict=True) if not math.isfinite(loss)]
            if broken:
                found.append(names(split, broken))
        if found:
            msg = (
                f"training diverged: the probe's loss is {point.train + point.validation} after "
                f"step {point.step} (images: {', '.join(found)}); check these images or lower the "
                f"learning rate; the last good checkpoint, if any, is in {self._ctx.scratch}"
            )
            raise TrainingError(msg)

    def validation_loss(self) -> float:
        """Of the fixed probe, with whichever adapter is active."""
        return self._within_memory(
            lambda: self._probes.validation(PROBE_SCALE * self._state.course.micro_batch)
        )

    def _note(self, first: int, started: float) -> str:
        images = self._plan.batch_size * self._plan.gradient_accumulation
        seconds = max(time.monotonic() - started, 1e-9)
        rate = (self._state.step - first) * images / seconds
        last = self.monitor.probes[-1]
        validation = f", validation {last.validation:.4f} at step {last.step}"
        return f"loss {self.monitor.recent_loss():.4f}, {rate:.0f} images/s{validation}"

    # -- stop, resume, finish

    def _heed_signal(self) -> None:
        if self._team.same(self._ctx.stop.is_set()):
            self._checkpoint()
            self._ctx.stop.set()
            self._ctx.check_stop()

    def _checkpoint(self) -> str:
        """Write one, in the first process; its file."""
        if not self._team.main:
            return "the first process's folder"
        tensors, state = self._state.pack()
        state["fingerprint"] = self._fingerprint
        return str(save_checkpoint(self._ctx.scratch, self._state.step, tensors, state))

    def _resume(self) -> int:
        """Load the checkpoint if there is one; returns the step to go on from."""
        found = None
        if self._team.main:
            found = load_checkpoint(self._ctx.scratch, self._fingerprint)
        found = self._team.same(found)
        if found is not None:
            self._state.unpack(*found)
            log.info("going on from step %d", self._state.step)
        step = self._state.step
        rows: list[str] = []
        if self._team.main:
            rows = self.monitor.resume(step if found else -1)
            self.snapshots.resume(step)
            if self._samples is not None:
                self._samples.resume(step)
        rows = self._team.same(rows)
        if not self._team.main:
            self.monitor.follow(rows)
        return step

    def _finish(self, first: int, seconds: float, stopped_by: StoppedBy) -> Outcome:
        state = self._state
        state.finish()
        self._team.close()
        images = self._plan.batch_size * self._plan.gradient_accumulation
        return Outcome(
            steps=state.step,
            best_step=state.best_step,
            resumed_from=first,
            before=self.monitor.probes[0].validation,
            best=state.best_loss,
            images_per_second=(state.step - first) * images / seconds,
            stopped_by=stopped_by,
        )


def names(split: Split, indices: Sequence[int]) -> str:
    """Files of a split for a message: the first few, and how many more."""
    files = [split.files[index] for index in sorted(set(indices))]
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more
