"""LoRA files: what is read, what is refused, what is written."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_factory.diffusion.lora_file import Pair, read_lora, write_kohya, write_lora
from lora_factory.errors import ModelError

SHAPES = {"mid.to_q": (6, 5), "mid.conv1": (6, 5, 3, 3)}


def linear(rank: int = 2) -> Pair:
    return Pair(torch.randn(rank, 5), torch.randn(6, rank))


def convolution(rank: int = 2) -> Pair:
    return Pair(torch.randn(rank, 5, 3, 3), torch.randn(6, rank, 1, 1))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    layers = {"mid.to_q": linear(), "mid.conv1": convolution()}
    file = tmp_path / "x.safetensors"
    write_lora(file, layers, {"modelspec.title": "x"})
    found = read_lora(file, SHAPES)
    assert found.rank == 2
    assert found.metadata["modelspec.title"] == "x"
    for name, pair in layers.items():
        assert torch.equal(found.layers[name].down, pair.down)
        assert torch.equal(found.layers[name].up, pair.up)
    data = file.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert found.metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_kohya_file_acts_the_same_whether_or_not_alpha_is_read(tmp_path: Path) -> None:
    layers = {"mid.to_q": linear(3), "mid.conv1": convolution(2)}
    write_lora(tmp_path / "x.safetensors", layers, {"modelspec.title": "x"})
    write_kohya(tmp_path / "x.safetensors", tmp_path / "k.safetensors")
    with safe_open(tmp_path / "k.safetensors", framework="pt") as opened:
        keys = set(opened.keys())
        assert opened.get_tensor("lora_unet_mid_to_q.alpha").item() == 3
    ends = ("alpha", "lora_down.weight", "lora_up.weight")
    assert keys == {f"lora_unet_mid_{name}.{end}" for name in ("to_q", "conv1") for end in ends}
    found = read_lora(tmp_path / "k.safetensors", SHAPES)
    assert found.metadata["modelspec.title"] == "x"
    for name, pair in layers.items():
        assert torch.equal(found.layers[name].down, pair.down)
        assert torch.equal(found.layers[name].up, pair.up)
    with pytest.raises(ModelError, match="not of the diffusers layout"):
        write_kohya(tmp_path / "k.safetensors", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_kohya_layout_is_read_with_its_alpha(tmp_path: Path) -> None:
    pair = linear(rank=4)
    file = tmp_path / "k.safetensors"
    save_file(
        {
            "lora_unet_mid_to_q.lora_down.weight": pair.down,
            "lora_unet_mid_to_q.lora_up.weight": pair.up,
            "lora_unet_mid_to_q.alpha": torch.tensor(1.0),
        },
        file,
    )
    found = read_lora(file, SHAPES).layers["mid.to_q"]
    assert torch.allclose(found.up @ found.down, 0.25 * pair.up @ pair.down)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"unet.mid.to_q.lora_A.weight": torch.zeros(2, 5)}, "only half"),
        ({"unet.mid.other.lora_A.weight": torch.zeros(2, 5)}, "fits no layer"),
        ({"text_encoder.x.lora_A.weight": torch.zeros(2, 5)}, "fits no layer"),
        ({"lora_unet_mid_to_q.dora_scale": torch.zeros(2)}, "fits no layer"),
        (
            {
                "unet.mid.to_q.lora_A.weight": torch.zeros(2, 7),
                "unet.mid.to_q.lora_B.weight": torch.zeros(6, 2),
            },
            "this base needs weight",
        ),
        (
            {
                "unet.mid.to_q.lora_A.weight": torch.zeros(0, 5),
                "unet.mid.to_q.lora_B.weight": torch.zeros(6, 0),
            },
            "this base needs weight",
        ),
        (
            {
                "unet.mid.to_q.lora_A.weight": torch.full((2, 5), torch.nan),
                "unet.mid.to_q.lora_B.weight": torch.zeros(6, 2),
            },
            "NaN or Inf",
        ),
        ({}, "no weights"),
    ],
)
def test_unusable_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], complaint: str
) -> None:
    file = tmp_path / "bad.safetensors"
    save_file(tensors, file)
    with pytest.raises(ModelError, match=complaint) as caught:
        read_lora(file, SHAPES)
    assert "\n" not in str(caught.value)
    assert "bad.safetensors" in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("lora.bin", "lora.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ModelError, match="safetensors"):
            read_lora(tmp_path / name, SHAPES)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_lora(file, {"mid.to_q": linear()}, {})
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ModelError, match="can't be read"):
        read_lora(file, SHAPES)


def test_values_in_the_header_are_strings(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_lora(file, {"mid.to_q": linear()}, {"ss_network_dim": "2"})
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"
        assert set(opened.keys()) == {"unet.mid.to_q.lora_A.weight", "unet.mid.to_q.lora_B.weight"}
