"""One loaded base for the room's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lora_factory.diffusion.base import DiffusionBase
from lora_factory.train.stage import ADAPTER
from training_data import embedded_base


@pytest.fixture
def base() -> Iterator[DiffusionBase]:
    torch.set_num_threads(1)
    base = embedded_base()
    yield base
    base.drop_adapter(ADAPTER)
