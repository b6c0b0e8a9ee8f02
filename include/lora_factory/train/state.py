"""What training changes: the weights, their average, the best of them, optimizer and course."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_factory.train import optimizers, sparse
from lora_factory.train.course import Course, first_course

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Parameter

    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase


@dataclass(frozen=True)
class Adapter:
    """What is trained. ``save`` writes its present weights, as those of a step, to a file."""

    name: str
    parameters: Sequence[Parameter]
    save: Callable[[Path, int], None]


class TrainingState:
    """All that a checkpoint holds, but the curves; everything else follows from the step.

    ``step`` counts finished steps, ``seconds`` those spent on them.
    """

    def __init__(self, plan: TrainPlan, base: DiffusionBase, adapter: Adapter) -> None:
        import torch

        self._plan, self._base, self._name = plan, base, adapter.name
        self.parameters = list(adapter.parameters)
        self.optimizer = optimizers.make_optimizer(plan, self.parameters)
        self.scaler = torch.amp.GradScaler(base.device, enabled=plan.mixed_precision == "fp16")
        self.average = [weight.detach().clone() for weight in self.parameters]
        self.best = [weight.clone() for weight in self.average]
        self.best_step, self.best_loss = 0, math.inf
        self.step, self.seconds = 0, 0.0
        self.course = first_course(plan)
        self.hold(self.course)

    # -- training

    def hold(self, course: Course) -> None:
        """Train on as ``course`` says."""
        self.course = course
        self._base.set_dropout(self._name, course.dropout)
        if course.checkpointing:
            self._base.denoiser.enable_gradient_checkpointing()

    def update(self, rate: float) -> None:
        """One optimizer step at a learning rate, with the gradients there are."""
        zeros = sparse.zeros(self.parameters) if self._plan.options.sparsity else None
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_ratio"]
            group["weight_decay"] = self.course.weight_decay
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        decay = min(self._plan.ema_decay, (1 + self.step) / (10 + self.step))
        for average, weight in zip(self.average, self.parameters, strict=True):
            average.lerp_(weight.detach(), 1 - decay)
        if zeros is not None:
            sparse.prune(self._plan, self.step, (self.parameters, self.average), zeros)

    # -- the best weights

    def keep_if_best(self, loss: float) -> None:
        """Remember the averaged weights if their validation loss is the lowest so far.

        Of a sparse training's weights only those as sparse as asked for are compared.
        """
        sparser = sparse.share(self._plan, self.best_step) < sparse.share(self._plan, self.step)
        if sparser or loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss
            for kept, average in zip(self.best, self.average, strict=True):
                kept.copy_(average)

    def restore_best(self) -> None:
        """Go on from the best weights, with an optimizer that forgot where it was going."""
        self._copy_in(self.best)
        for average, best in zip(self.average, self.best, strict=True):
            average.copy_(best)
        self.optimizer = optimizers.make_optimizer(self._plan, self.parameters)

    def finish(self) -> None:
        """Leave the best weights in the adapter."""
        if self._plan.options.sparsity:
            sparse.prune_to(self._plan.options.sparsity, self.best)
        self._copy_in(self.best)
        self._base.set_dropout(self._name, 0.0)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the adapter act with the averaged weights, and no dropout, for a while."""
        live = [weight.detach().clone() for weight in self.parameters]
        self._copy_in(self.average)
        self._base.set_dropout(self._name, 0.0)
        try:
            yield
        finally:
            self._copy_in(live)
            self._base.set_dropout(self._name, self.course.dropout)

    def _copy_in(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.parameters, values, strict=True):
            weight.data.copy_(value)

    # -- checkpoints

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors, and what JSON holds."""
        tensors, optimizer = optimizers.pack(self.optimizer)
        for name, group in self._groups().items():
            tensors |= {f"{name}.{index}": tensor for index, tensor in enumerate(group)}
        return tensors, {
            "step": self.step,
            "seconds": self.seconds,
            "best_step": self.best_step,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "course": self.course.model_dump(mode="json"),
            "scaler": self.scaler.state_dict(),
            "optimizer": optimizer,
        }

    def unpack(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Be as :meth:`pack` found another state of the same plan."""
        for name, group in self._groups().items():
            for index, tensor in enumerate(group):
                tensor.data.copy_(tensors[f"{name}.{index}"])
        optimizers.unpack(self.optimizer, tensors, state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.best_step = int(state["best_step"])
        self.best_loss = math.inf if state["best_loss"] is None else float(state["best_loss"])
        self.hold(Course.model_validate(state["course"]))

    def _groups(self) -> dict[str, Sequence[Tensor]]:
        return {"weight": self.parameters, "average": self.average, "best": self.best}
