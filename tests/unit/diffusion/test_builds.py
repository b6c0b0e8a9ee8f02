"""Builds of a tiny denoiser of the real class: what an engine gives is what torch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lora_factory.contracts.optimise import BuildInfo
from lora_factory.diffusion import builds
from lora_factory.diffusion.engines import graph, tensorrt
from lora_factory.errors import ConfigurationError, ModelError


@pytest.fixture(scope="module")
def denoiser() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def call(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return builds.named_inputs(
        torch.randn(count, 4, 8, 8, generator=draw),
        torch.tensor([500]),
        torch.randn(count, 6, 8, generator=draw),
    )


def told(denoiser: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = denoiser(*inputs.values(), return_dict=False)[0]
    return made


def info(form: str, file: str, *, device: str = "") -> BuildInfo:
    return BuildInfo.model_validate({
        "step": "onnx",
        "form": form,
        "file": file,
        "base": "emoji",
        "base_revision": "1",
        "lora_sha256": "0" * 64,
        "device": device,
    })


@pytest.fixture(scope="module")
def onnx(denoiser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graph") / "denoiser.onnx"
    graph.export(builds.by_position(denoiser), call(2), file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_graph_predicts_what_torch_does_for_any_batch(
    denoiser: Any, onnx: Path, count: int
) -> None:
    run = builds.open_engine(onnx.parent, info("graph", onnx.name), denoiser, "cpu")
    inputs = call(count, seed=count)
    assert torch.allclose(run(inputs), told(denoiser, inputs), atol=1e-4)


@pytest.mark.slow
def test_eight_bits_are_smaller_and_near(denoiser: Any, onnx: Path, tmp_path: Path) -> None:
    small = tmp_path / "denoiser.onnx"
    graph.quantise(onnx, small)
    run = builds.open_engine(tmp_path, info("graph", small.name), denoiser, "cpu")
    inputs = call(2)
    exact = told(denoiser, inputs)
    apart = (run(inputs) - exact).abs().mean() / exact.std()
    assert 0 < apart < 0.1


def test_a_damaged_graph_is_refused(denoiser: Any, tmp_path: Path) -> None:
    (tmp_path / "denoiser.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="can't be run"):
        builds.open_engine(tmp_path, info("graph", "denoiser.onnx"), denoiser, "cpu")


def test_weights_take_the_place_of_the_base_s(denoiser: Any, tmp_path: Path) -> None:
    other = builds.plain_copy(denoiser)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.01)
    save_file(other.state_dict(), tmp_path / "denoiser.safetensors")
    found = info("weights", "denoiser.safetensors")
    run = builds.open_engine(tmp_path, found, denoiser, "cpu")
    inputs = call(2)
    assert torch.equal(run(inputs), told(other, inputs))
    assert not torch.equal(run(inputs), told(denoiser, inputs)), "the base's weights stay its own"

    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "denoiser.safetensors")
    with pytest.raises(ModelError, match="don't fit this base"):
        builds.open_engine(tmp_path, found, denoiser, "cpu")


def test_a_stand_in_is_called_as_the_denoiser_is(denoiser: Any) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def engine(inputs: Any) -> torch.Tensor:
        seen.append(dict(inputs))
        return inputs["latents"] * 2

    stand_in = builds.StandIn(denoiser, engine)
    assert stand_in.config.in_channels == 4
    assert stand_in.dtype == torch.float32
    sample = torch.ones(2, 4, 8, 8)
    sizes = {"text_embeds": torch.ones(2, 5), "time_ids": torch.ones(2, 6)}
    made = stand_in(
        sample,
        torch.tensor(7),
        encoder_hidden_states=torch.ones(2, 6, 8),
        timestep_cond=None,
        cross_attention_kwargs=None,
        added_cond_kwargs=sizes,
        return_dict=False,
    )[0]
    assert torch.equal(made, sample * 2)
    assert list(seen[0]) == ["latents", "timestep", "text", "pooled", "sizes"]
    assert seen[0]["timestep"].shape == ()


def test_hooks_stay_with_the_original(denoiser: Any) -> None:
    hook = denoiser.conv_in.register_forward_hook(lambda *_: None)
    try:
        assert not builds.plain_copy(denoiser).conv_in._forward_hooks
        assert denoiser.conv_in._forward_hooks
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("available", "device", "expected"),
    [
        (["CPUExecutionProvider"], "cuda", ["CPUExecutionProvider"]),
        (
            ["MIGraphXExecutionProvider", "CPUExecutionProvider"],
            "cuda",
            ["MIGraphXExecutionProvider", "CPUExecutionProvider"],
        ),
        (
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            "cuda",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "cpu", ["CPUExecutionProvider"]),
    ],
)
def test_the_runtime_is_chosen_by_what_is_there(
    available: list[str], device: str, expected: list[str]
) -> None:
    assert graph.providers(available, device) == expected


# -- TensorRT, as far as it goes without a GPU


def test_an_engine_is_planned_without_a_gpu() -> None:
    plan = tensorrt.plan_engine(
        "emoji",
        {"latents": (2, 4, 8, 8), "timestep": (), "text": (2, 6, 8)},
        ("NVIDIA H100 80GB HBM3", 9, 0),
        "11.4.0.106",
        80 * 2**30,
    )
    assert plan.name == "emoji_nvidia-h100-80gb-hbm3_sm90_trt11.4.0.106.engine"
    assert plan.timing_cache == "nvidia-h100-80gb-hbm3_sm90_trt11.4.0.106.timing"
    assert plan.shapes["latents"] == ((1, 4, 8, 8), (2, 4, 8, 8), (16, 4, 8, 8))
    assert plan.shapes["timestep"] == ((), (), ())
    assert plan.workspace_bytes == 40 * 2**30
    assert plan.refittable
    BuildInfo.model_validate(info("engine", plan.name).model_dump())  # a name that builds may have


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_install(denoiser: Any, tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="pip install tensorrt"):
        builds.open_engine(tmp_path, info("engine", "x.engine", device="a"), denoiser, "cuda")
