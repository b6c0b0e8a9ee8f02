"""Several adapters in one batch act as each does alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_factory.diffusion.bank import AdapterBank, Worn
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest
from lora_factory.diffusion.lora_file import LoraFile, Pair, write_lora
from lora_factory.errors import ModelError

TARGETS = ("to_q", "to_out.0", "conv1", "time_emb_proj")


def made(layers: dict[str, torch.nn.Module], rank: int, seed: int) -> LoraFile:
    """An adapter of random weights on all of ``layers``."""
    noise = torch.Generator().manual_seed(seed)

    def pair(layer: torch.nn.Module) -> Pair:
        out, *rest = layer.weight.shape
        down = torch.randn(rank, *rest, generator=noise) * 0.1
        return Pair(down, torch.randn(out, rank, *[1] * (len(rest) - 1), generator=noise) * 0.1)

    return LoraFile({name: pair(layer) for name, layer in layers.items()}, {})


@pytest.fixture(scope="module")
def layers() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "linear": torch.nn.Linear(6, 5),
        "plain": torch.nn.Linear(6, 5, bias=False),
        "conv": torch.nn.Conv2d(6, 5, 3, stride=2, padding=1),
        "point": torch.nn.Conv2d(6, 5, 1),
    }


def inputs(name: str, count: int) -> torch.Tensor:
    shape = (count, 6, 7, 7) if name in {"conv", "point"} else (count, 3, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


ROWS = st.lists(
    st.none() | st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0, -1.0])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60)
@given(rows=ROWS, times=st.integers(1, 3))
def test_each_sample_gets_what_its_weights_would_give(
    layers: dict[str, torch.nn.Module],
    rows: list[tuple[str, float] | None],
    times: int,
) -> None:
    sources = {name: made(layers, rank, rank) for name, rank in (("a", 1), ("b", 4), ("c", 2))}
    with torch.no_grad():
        for name, layer in layers.items():
            bank = AdapterBank({name: layer})
            for key, source in sources.items():
                bank.add(key, LoraFile({name: source.layers[name]}, {}))
            given_ = inputs(name, len(rows) * times)
            bank.wear([row and Worn(*row) for row in rows])
            together = layer(given_)
            bank.wear([])
            for sample, row in enumerate(rows * times):
                expected = layer(given_[sample : sample + 1])
                if row is not None:
                    down, up = sources[row[0]].layers[name]
                    kept = layer.weight.data.clone()
                    layer.weight += row[1] * (up.flatten(1) @ down.flatten(1)).view(kept.shape)
                    expected = layer(given_[sample : sample + 1])
                    layer.weight.data = kept
                assert torch.allclose(together[sample], expected[0], atol=1e-4)


def test_a_batch_that_fits_no_rows_is_refused(layers: dict[str, torch.nn.Module]) -> None:
    bank = AdapterBank(layers)
    bank.add("a", made(layers, 2, 1))
    bank.wear([Worn("a"), None])
    with pytest.raises(ModelError, match="no multiple"):
        layers["linear"](inputs("linear", 3))
    bank.wear([Worn("a")])  # one adapter fits any number
    layers["linear"](inputs("linear", 3))
    bank.wear([])
    with pytest.raises(ModelError, match="no adapter 'z'"):
        bank.wear([Worn("z")])


def test_unfusing_restores_every_bit(layers: dict[str, torch.nn.Module]) -> None:
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    bank = AdapterBank(layers)
    bank.add("a", made(layers, 2, 1))
    bank.wear([Worn("a", 0.7)])
    worn = {name: layer(inputs(name, 2)) for name, layer in layers.items()}
    bank.wear([])
    bank.fuse("a", 0.7)
    with pytest.raises(ModelError, match="another one is fused"):
        bank.fuse("a")
    for name, layer in layers.items():
        assert torch.allclose(layer(inputs(name, 2)), worn[name], atol=1e-4)
    bank.unfuse()
    assert all(torch.equal(layers[name].weight, weight) for name, weight in before.items())


def test_three_loras_and_the_base_share_a_batch(base: DiffusionBase, tmp_path: Path) -> None:
    unet = {
        name: module for name, module in base.denoiser.named_modules() if name.endswith(TARGETS)
    }
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate("wxyz")]
    rows = [Worn("a"), None, Worn("b", 0.5), Worn("c")]
    for rank, row in enumerate(filter(None, rows), start=2):
        write_lora(tmp_path / "x.safetensors", made(unet, rank, rank).layers, {})
        base.load_adapter(row.name, tmp_path / "x.safetensors")
    assert base.adapter_size("b") > base.adapter_size("a") > 0
    draw = {"steps": 3, "guidance": 4.0}
    together = base.generate(requests, **draw, adapters=rows)
    bare = base.generate(requests, **draw, adapters=[None] * 4)
    for request, row, picture, plain in zip(requests, rows, together, bare, strict=True):
        base.use_adapter(*(row or (None,)))
        alone = np.asarray(base.generate([request], **draw)[0], float)
        assert np.abs(np.asarray(picture, float) - alone).max() <= 1.5
        moved = np.abs(np.asarray(plain, float) - alone).max()
        assert moved > 3 if row else moved <= 1.5
    # Batches smaller than the rows take their own share of them.
    halves = base.generate(requests, **draw, adapters=rows, batch_size=3)
    for picture, half in zip(together, halves, strict=True):
        assert np.abs(np.asarray(picture, float) - np.asarray(half, float)).max() <= 1.5


def test_a_loaded_adapter_outlives_its_file(base: DiffusionBase, tmp_path: Path) -> None:
    unet = {n: m for n, m in base.denoiser.named_modules() if n.endswith(TARGETS)}
    file = tmp_path / "x.safetensors"
    write_lora(file, made(unet, 2, 1).layers, {})
    base.load_adapter("a", file)
    request = [GenerationRequest("x", 1)]
    before = base.generate(request, steps=1, guidance=1.0, adapters=[Worn("a")])
    with file.open("r+b") as stream:  # in place, as a damaged disk or a careless copy does it
        stream.truncate(0)
    after = base.generate(request, steps=1, guidance=1.0, adapters=[Worn("a")])
    assert np.array_equal(np.asarray(before[0]), np.asarray(after[0]))
