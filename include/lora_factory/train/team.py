"""The processes that train one LoRA together, through accelerate (DDP); usually one.

Every process draws the same global batch by the step's number and takes its share of it, so that
any number of processes trains on the same images with the same noise. Gradients are averaged by
DistributedDataParallel in the last part of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from lora_factory.errors import TrainingError
from lora_factory.train.sampling import Batch, cut_batch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

T = TypeVar("T")


def use_own_device() -> None:
    """Make the GPU of this process the one that ``cuda`` means."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


class Team:
    """Rank and size come from the environment, as ``accelerate launch`` and ``torchrun`` set it."""

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
        self.rank = int(self._accelerator.process_index)
        self.size = int(self._accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def prepare(self, module: Module) -> Module:
        """``module`` wrapped in DDP where there are several processes."""
        made: Module = self._accelerator.prepare_model(module)
        return made

    def close(self) -> None:
        """Leave the group; every process must get here, or end."""
        import torch

        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def share(self, batch: Batch) -> Batch:
        """This process's items of a global batch.

        Raises:
            TrainingError: it has fewer items than there are processes.
        """
        if self.size == 1:
            return batch
        count = len(batch)
        if count < self.size:
            msg = f"{self.size} processes can't share a batch of {count}; raise batch_size"
            raise TrainingError(msg)
        first, last = (count * number // self.size for number in (self.rank, self.rank + 1))
        return cut_batch(batch, slice(first, last))

    @contextmanager
    def gather_gradients(self, module: Module, *, now: bool) -> Iterator[None]:
        """A backward pass whose gradients are averaged ``now``, or only added up."""
        if now or self.size == 1:
            yield
            return
        with self._accelerator.no_sync(module):
            yield

    def total(self, value: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size == 1:
            return value
        found: Tensor = self._accelerator.reduce(value, reduction="sum")
        return found

    def same(self, value: T) -> T:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        held: list[Any] = [value]
        broadcast_object_list(held)
        found: T = held[0]
        return found
