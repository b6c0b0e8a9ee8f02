"""The training loop.

AdamW on the LoRA weights, warm-up then cosine, an exponential moving average of the weights
(what is validated and kept), fixed validation probes, best weights restored, snapshots of
earlier ones, a checkpoint every few seconds and when asked to stop.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.progress import Progress
from lora_factory.diffusion.objective import autocast, denoising_loss
from lora_factory.errors import TrainingError
from lora_factory.train.checkpoint import load_checkpoint, save_checkpoint
from lora_factory.train.monitor import ProbePoint, TrainingMonitor
from lora_factory.train.sampling import Batch, Sampler, probe_batch, split_batch
from lora_factory.train.snapshots import FOLDER, Snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Parameter

    from lora_factory.contracts.stage import StageContext
    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.train.data import Split

log = logging.getLogger(__name__)
BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0
PROBE_SCALE = 4  # without gradients, this many training batches fit the memory of one
PROBES = 12  # validation probes in a training, besides the first and the last
PROBE_STEPS = 10  # steps between two probes, at least: they cost time too
CHECKPOINT_SECONDS = 10.0


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
    stopped_by: Literal["steps", "overfit"]


class LoRATrainer:
    """Trains the active adapter of ``base``, whose weights are ``parameters``.

    ``save`` writes the adapter's present weights, as those of a step, to a file.
    """

    def __init__(
        self,
        plan: TrainPlan,
        base: DiffusionBase,
        data: Data,
        parameters: Sequence[Parameter],
        save: Callable[[Path, int], None],
        ctx: StageContext,
    ) -> None:
        import torch

        self._plan, self._base, self._ctx, self._data = plan, base, ctx, data
        self._parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=plan.learning_rate, betas=BETAS, weight_decay=plan.weight_decay
        )
        self._scaler = torch.amp.GradScaler(base.device, enabled=plan.mixed_precision == "fp16")
        self._average = [weight.detach().clone() for weight in self._parameters]
        self._best = [weight.clone() for weight in self._average]
        self._best_step = 0
        self._sampler = Sampler(plan, data.train, base)
        self._probes = (probe_batch(data.train, base), probe_batch(data.validation, base))
        self._file = ctx.scratch / "checkpoint.safetensors"
        self._fingerprint = sha256_json([plan.model_dump(mode="json"), data.train.files])
        self.monitor = TrainingMonitor(ctx.scratch / "training.jsonl")
        size = sum(weight.numel() * weight.element_size() for weight in self._parameters)
        self.snapshots = Snapshots(ctx.scratch / FOLDER, plan.steps, size, save)

    def train(self) -> Outcome:
        """Run to the last step, or until overfitting.

        Raises:
            TrainingError: loss or gradient is not finite; names the files of the batch.
            Interrupted: asked to stop; the checkpoint holds every finished step.
        """
        plan = self._plan
        first = self._resume()
        progress = Progress("training", plan.steps, "steps")
        progress.done = first
        images = plan.batch_size * plan.gradient_accumulation
        stopped_by: Literal["steps", "overfit"] = "steps"
        started = saved = time.monotonic()
        step = first
        if not self.monitor.probes:
            self._probe(0)
        while step < plan.steps:
            if self._ctx.stop.is_set():
                self._checkpoint(step)
                self._ctx.check_stop()
            self._step(step)
            step += 1
            rate = (step - first) * images / (time.monotonic() - started)
            note = f"loss {self.monitor.recent_loss():.4f}, {rate:.0f} images/s"
            if step == plan.steps or step % max(PROBE_STEPS, plan.steps // PROBES) == 0:
                note += f", validation {self._probe(step).validation:.4f}"
                if self.monitor.detect_overfitting():
                    log.info("validation loss rises against training loss; stopping")
                    stopped_by = "overfit"
                    break
            progress.advance(note=note)
            if step in self.snapshots.due:  # before the checkpoint that would skip it
                with self._averaged():
                    self.snapshots.write(step)
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._checkpoint(step)
                saved = time.monotonic()
        seconds = max(time.monotonic() - started, 1e-9)
        return self._finish(step, first, (step - first) * images / seconds, stopped_by)

    # -- one step

    def _step(self, step: int) -> None:
        import torch

        plan = self._plan
        batch = self._sampler.batch(step)
        rate = plan.learning_rate * lr_factor(step, plan)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for part in split_batch(batch, plan.batch_size):
            loss = self._loss(part).mean() / plan.gradient_accumulation
            self._check_finite("loss", loss, step, part)
            self._scaler.scale(loss).backward()
            total += loss.item()
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        if not self._scaler.is_enabled():  # fp16 overflows are the scaler's to skip
            self._check_finite("gradient", norm, step, batch)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        decay = min(plan.ema_decay, (1 + step) / (10 + step))
        for average, weight in zip(self._average, self._parameters, strict=True):
            average.lerp_(weight.detach(), 1 - decay)
        self.monitor.log({
            "step": step + 1,
            "loss": total,
            "lr": rate,
            "grad_norm": round(norm.item(), 6),
        })

    def _loss(self, batch: Batch) -> Tensor:
        gamma = self._plan.min_snr_gamma
        with autocast(self._base.device, self._plan.mixed_precision):
            return denoising_loss(
                self._base, batch.latents, batch.text, batch.noise, batch.timesteps, gamma
            )

    def _check_finite(self, what: str, value: Tensor, step: int, batch: Batch) -> None:
        if bool(value.isfinite()):
            return
        files = ", ".join(self._data.train.files[index] for index in sorted(set(batch.indices)))
        msg = (
            f"training diverged at step {step + 1}: {what} is {value.item()} "
            f"(images of the batch: {files}); check these images or lower the learning rate"
        )
        raise TrainingError(msg)

    # -- validation

    def _probe(self, step: int) -> ProbePoint:
        """Measure both fixed probes with the averaged weights; remember the best."""
        with self._averaged():
            train, validation = (self._probe_loss(batch) for batch in self._probes)
        if not math.isfinite(validation):
            msg = f"training diverged: validation loss is {validation} at step {step}"
            raise TrainingError(msg)
        best = min((point.validation for point in self.monitor.probes), default=math.inf)
        if validation < best:
            self._best_step = step
            for kept, average in zip(self._best, self._average, strict=True):
                kept.copy_(average)
        self.monitor.log({"step": step, "train_probe": train, "val": validation})
        return self.monitor.probes[-1]

    def _probe_loss(self, batch: Batch) -> float:
        import torch

        size = PROBE_SCALE * self._plan.batch_size
        with torch.no_grad():
            losses = [self._loss(part).sum() for part in split_batch(batch, size)]
        return float(sum(losses)) / len(batch.indices)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the adapter act with the averaged weights for a while."""
        live = [weight.detach().clone() for weight in self._parameters]
        self._copy_in(self._average)
        try:
            yield
        finally:
            self._copy_in(live)

    def _copy_in(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._parameters, values, strict=True):
            weight.data.copy_(value)

    # -- stop, resume, finish

    def _groups(self) -> dict[str, Sequence[Tensor]]:
        return {"weight": self._parameters, "average": self._average, "best": self._best}

    def _checkpoint(self, step: int) -> None:
        tensors = {
            f"{name}.{index}": tensor
            for name, group in self._groups().items()
            for index, tensor in enumerate(group)
        }
        for index, slots in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
        state = {
            "fingerprint": self._fingerprint,
            "step": step,
            "best_step": self._best_step,
            "scaler": self._scaler.state_dict(),
        }
        save_checkpoint(self._file, tensors, state)

    def _resume(self) -> int:
        """Load the checkpoint if there is one; returns the step to go on from."""
        found = load_checkpoint(self._file, self._fingerprint)
        step = int(found[1]["step"]) if found else 0
        self.monitor.resume(step if found else -1)
        self.snapshots.resume(step)
        if found is None:
            return 0
        tensors, state = found
        for name, group in self._groups().items():
            for index, tensor in enumerate(group):
                tensor.data.copy_(tensors[f"{name}.{index}"])
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "adam":
                number, _, slot = rest.partition(".")
                slots.setdefault(int(number), {})[slot] = value
        whole: dict[str, Any] = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**whole, "state": slots})
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._best_step = int(state["best_step"])
        log.info("going on from step %d", step)
        return step

    def _finish(
        self, step: int, first: int, rate: float, stopped_by: Literal["steps", "overfit"]
    ) -> Outcome:
        self._copy_in(self._best)
        values = [point.validation for point in self.monitor.probes]
        return Outcome(
            steps=step,
            best_step=self._best_step,
            resumed_from=first,
            before=values[0],
            best=min(values),
            images_per_second=rate,
            stopped_by=stopped_by,
        )


def lr_factor(step: int, plan: TrainPlan) -> float:
    """Share of the learning rate at ``step`` (from 0): linear warm-up, then half a cosine."""
    if step < plan.warmup_steps:
        return (step + 1) / (plan.warmup_steps + 1)
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
