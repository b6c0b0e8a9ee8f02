"""The gate on a written LoRA: sabotage of each kind is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_factory.diffusion.base import DiffusionBase
from lora_factory.errors import ModelError, TrainingError
from lora_factory.train.reload import check_reload
from lora_factory.train.sampling import Batch
from lora_factory.train.stage import ADAPTER


@pytest.fixture
def file(base: DiffusionBase, tmp_path: Path) -> Path:
    weights = base.add_adapter(ADAPTER, 4, 2.0, ("to_q", "to_v", "conv1"))
    dice = torch.Generator().manual_seed(0)
    for weight in weights:
        weight.data = 0.1 * torch.randn(weight.shape, generator=dice)
    file = tmp_path / "lora.safetensors"
    base.save_adapter(ADAPTER, file, {})
    return file


@pytest.fixture
def batch(base: DiffusionBase) -> Batch:
    latents, noise = torch.randn(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    text = base.encode_texts(["cat", "dog", "tree"])
    return Batch(latents, text, noise, torch.tensor([100, 500, 900]), [0, 1, 2], torch.zeros(3, 6))


def test_what_was_written_does_what_was_trained(
    base: DiffusionBase, file: Path, batch: Batch
) -> None:
    assert check_reload(base, ADAPTER, file, batch) < 1e-4
    base.release_encoders()  # it needs none of them
    assert check_reload(base, ADAPTER, file, batch) < 1e-4


@pytest.mark.parametrize("factor", [0.0, 0.5, 4.0])
def test_another_strength_is_found(
    base: DiffusionBase, file: Path, batch: Batch, factor: float
) -> None:
    weights = {k: v * (factor if "lora_B" in k else 1.0) for k, v in load_file(file).items()}
    save_file(weights, file)
    with pytest.raises(TrainingError, match="does not do what was trained") as caught:
        check_reload(base, ADAPTER, file, batch)
    assert "\n" not in str(caught.value)


def test_a_layer_too_many_or_too_few_is_found(
    base: DiffusionBase, file: Path, batch: Batch
) -> None:
    weights = load_file(file)
    gone = sorted(weights)[0].rpartition(".lora_")[0]
    save_file({k: v for k, v in weights.items() if not k.startswith(gone)}, file)
    with pytest.raises(TrainingError, match="differ by"):
        check_reload(base, ADAPTER, file, batch)
    save_file({**weights, "unet.nowhere.lora_A.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(ModelError, match="fits no layer"):
        check_reload(base, ADAPTER, file, batch)
