"""One training of one part: cosine rate, averaged weights, checkpoints, a slice of time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.progress import Progress
from lora_factory.train.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

log = logging.getLogger(__name__)
WARMUP = 200
SAVE_SECONDS = 60.0


class OutOfTime(Exception):
    """The slice is over; the checkpoint holds what was done."""


@dataclass(frozen=True)
class Recipe:
    """How a part is trained."""

    name: str
    rate: float
    batch: int
    images: int
    average: float = 0.999
    slow: tuple[str, ...] = ()
    """Modules whose names begin so learn at a fifth of the rate."""

    def times(self, more: float) -> Recipe:
        """The same with so many times the images."""
        return replace(self, images=math.ceil(self.images * more))

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return math.ceil(self.images / self.batch)


@dataclass(frozen=True)
class Slice:
    """Where checkpoints lie, and what is asked after each step: whether time is up."""

    folder: Path
    is_over: Callable[[], bool]
    device: str
    more: float = 1.0
    """Times the recipes' images."""


def train_part(
    recipe: Recipe,
    model: Module,
    loss_of: Callable[[Generator, int], Tensor],
    work: Slice,
) -> Module:
    """Train to the last step, going on from a checkpoint; returns the averaged model.

    Args:
        recipe: rate, steps, batch.
        model: on ``work.device``.
        loss_of: generator of the step's own, batch size → a batch's loss. A step depends on
            nothing else, so that a resumed training is the uninterrupted one.
        work: the slice.

    Raises:
        OutOfTime: the slice is over.
    """
    import torch

    recipe = recipe.times(work.more)
    folder = work.folder / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(_groups(model, recipe), weight_decay=0.01, betas=(0.9, 0.99))
    fingerprint = sha256_json([recipe.name, recipe.batch, recipe.images, recipe.rate])
    step = _resume(folder, fingerprint, model, average, optimizer)
    progress = Progress(recipe.name, recipe.steps, "steps")
    progress.done = step
    saved, recent = time.monotonic(), 0.0
    while step < recipe.steps:
        draw = torch.Generator().manual_seed(step)
        factor = min(1.0, (step + 1) / WARMUP) * _cosine(step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor
        loss = loss_of(draw, recipe.batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(recipe.average, step / (step + 10))
        for name, weight in model.state_dict().items():
            if weight.is_floating_point():
                average[name].lerp_(weight, 1 - decay)
        recent = loss.item() if recent == 0.0 else 0.98 * recent + 0.02 * loss.item()
        progress.advance(note=f"loss {recent:.4f}")
        over = work.is_over()
        if over or step == recipe.steps or time.monotonic() - saved >= SAVE_SECONDS:
            _save(folder, fingerprint, step, model, average, optimizer)
            saved = time.monotonic()
        if over and step < recipe.steps:
            raise OutOfTime
    model.load_state_dict(average)
    return model


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _groups(model: Module, recipe: Recipe) -> list[dict[str, Any]]:
    slow: list[Tensor] = []
    fast: list[Tensor] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (slow if recipe.slow and name.startswith(recipe.slow) else fast).append(weight)
    groups = [{"params": fast, "base": recipe.rate}, {"params": slow, "base": recipe.rate / 5}]
    return [{**group, "lr": group["base"]} for group in groups if group["params"]]


def _save(
    folder: Path,
    fingerprint: str,
    step: int,
    model: Module,
    average: dict[str, Tensor],
    optimizer: Any,
) -> None:
    moments = {
        f"moment/{at}/{name}": value
        for at, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    weights = {f"model/{name}": value for name, value in model.state_dict().items()}
    averages = {f"average/{name}": value for name, value in average.items()}
    tensors = {**weights, **averages, **moments}
    copies = {name: value.detach().clone() for name, value in tensors.items()}
    save_checkpoint(folder, step, copies, {"fingerprint": fingerprint})


def _resume(
    folder: Path, fingerprint: str, model: Module, average: dict[str, Tensor], optimizer: Any
) -> int:
    found = load_checkpoint(folder, fingerprint)
    if found is None:
        return 0
    tensors, state = found
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "moment": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = value
    model.load_state_dict(parts["model"])
    for name, value in parts["average"].items():
        average[name].copy_(value)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["moment"].items():
        at, _, key = name.partition("/")
        moments.setdefault(int(at), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    log.info("%s goes on from step %d", folder.name, state["step"])
    return int(state["step"])
