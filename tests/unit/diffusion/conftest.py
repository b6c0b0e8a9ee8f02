"""One loaded base for the room's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lora_factory.diffusion.base import DiffusionBase
from training_data import embedded_base


@pytest.fixture
def base() -> Iterator[DiffusionBase]:
    torch.set_num_threads(1)
    base = embedded_base()
    yield base
    for name in ("a", "b", "c"):
        base.drop_adapter(name)
    base.use_adapter(None)
