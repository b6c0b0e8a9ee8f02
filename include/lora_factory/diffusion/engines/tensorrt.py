"""A denoiser as a TensorRT engine (11.x): planned anywhere, built and run on an NVIDIA GPU.

An engine runs on the kind of GPU and the version it was built with, so both are in its name.
Built refittable: another LoRA of the base could be put into it without tuning it anew, and the
timing cache makes a second build short. The network is strongly typed: it runs in the types that
the graph has (TensorRT 11 knows no other way).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.diffusion.engines.graph import OUTPUT
from lora_factory.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
MISSING = (
    "a TensorRT engine needs the package tensorrt and an NVIDIA GPU: "
    "pip install tensorrt (11.x), or choose the step onnx"
)
BATCHES = (1, 2, 16)
"""Samples at least, at best and at most; with guidance a picture is two of them."""


class EnginePlan(Contract):
    """All that decides an engine."""

    name: str = Field(description="File name: base, GPU, version")
    device: str = Field(description="GPU by name and compute capability")
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = Field(
        description="Input → shape with the fewest, the usual and the most samples"
    )
    workspace_bytes: int = Field(gt=0)
    refittable: bool = True
    timing_cache: str = Field(description="File name; shared by engines of one GPU and version")


def plan_engine(
    base: str,
    shapes: Mapping[str, tuple[int, ...]],
    gpu: tuple[str, int, int],
    version: str,
    memory_bytes: int,
) -> EnginePlan:
    """Plan an engine; touches neither GPU nor TensorRT.

    Args:
        base: name of the base.
        shapes: input → shape of an example; empty for single numbers.
        gpu: name, and major and minor compute capability.
        version: of TensorRT.
        memory_bytes: free on the GPU; half of it is the workspace.
    """
    name, major, minor = gpu
    plain = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    where = f"{plain}_sm{major}{minor}_trt{version}"
    return EnginePlan(
        name=f"{base}_{where}.engine",
        device=f"{name} sm{major}{minor}",
        shapes={
            key: tuple((n, *shape[1:]) if shape else () for n in BATCHES)
            for key, shape in shapes.items()
        },
        workspace_bytes=max(1, memory_bytes // 2),
        timing_cache=f"{where}.timing",
    )


def gpu_here() -> tuple[str, int, int]:
    """Name and compute capability of the GPU.

    Raises:
        ConfigurationError: there is none.
    """
    import torch

    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise ConfigurationError(MISSING)
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), major, minor


def library() -> Any:
    """The package.

    Raises:
        ConfigurationError: it isn't installed.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as err:
        raise ConfigurationError(MISSING) from err


def build_engine(plan: EnginePlan, graph: Path, file: Path, cache: Path) -> None:
    """Tune an engine for this GPU: minutes, the first time.

    Args:
        plan: of :func:`plan_engine`.
        graph: ONNX file in the types that it shall run in.
        file: the engine.
        cache: folder of timing caches.

    Raises:
        ConfigurationError: TensorRT isn't installed.
        ModelError: it can't take the graph.
    """
    trt = library()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        msg = f"TensorRT can't take graph {graph.name}: {parser.get_error(0)}; use the step onnx"
        raise ModelError(msg)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    timings = cache / plan.timing_cache
    known = timings.read_bytes() if timings.is_file() else b""
    timing_cache = config.create_timing_cache(known)
    config.set_timing_cache(timing_cache, ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for name, (fewest, usual, most) in plan.shapes.items():
        if usual:
            profile.set_shape(name, fewest, usual, most)
    config.add_optimization_profile(profile)
    log.info("building TensorRT engine %s", plan.name)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        msg = f"TensorRT could build no engine from {graph.name}; its log says why"
        raise ModelError(msg)
    file.write_bytes(bytes(serialized))
    cache.mkdir(parents=True, exist_ok=True)
    part = timings.with_suffix(".part")
    part.write_bytes(bytes(config.get_timing_cache().serialize()))
    part.replace(timings)


def open_engine(file: Path, device: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function that runs an engine on named inputs on the GPU.

    Raises:
        ConfigurationError: TensorRT or the GPU is missing.
        ModelError: the engine is of another GPU or version, or damaged.
    """
    import torch

    name, major, minor = gpu_here()
    if device != f"{name} sm{major}{minor}":
        msg = f"engine {file.name} was built for {device}, this is {name}; build it here"
        raise ModelError(msg)
    trt = library()
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        msg = f"engine {file.name} can't be read by TensorRT {trt.__version__}; build it again"
        raise ModelError(msg)
    context = engine.create_execution_context()

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        held = {key: tensor.contiguous() for key, tensor in inputs.items()}
        for key, tensor in held.items():
            context.set_input_shape(key, tuple(tensor.shape))
            context.set_tensor_address(key, tensor.data_ptr())
        made = torch.empty_like(held["latents"])
        context.set_tensor_address(OUTPUT, made.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            msg = f"engine {file.name} failed; build it again"
            raise ModelError(msg)
        stream.synchronize()  # ``held`` must live until it has been read
        return made

    return run
