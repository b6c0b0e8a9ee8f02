"""A denoiser as an ONNX graph, run by ONNX Runtime on a CPU, an NVIDIA or an AMD GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

log = logging.getLogger(__name__)
OUTPUT = "noise"
LARGE = 1_500_000_000  # bytes; a graph of 2 GiB and more keeps its weights beside it
PREFERRED = ("CUDAExecutionProvider", "MIGraphXExecutionProvider", "ROCMExecutionProvider")
LINEAR = ["MatMul", "Gemm"]


def providers(available: Sequence[str], device: str) -> list[str]:
    """Execution providers to ask ONNX Runtime for, best first.

    Args:
        available: what the installed ONNX Runtime has.
        device: where the base runs; torch calls AMD's GPUs ``cuda`` too, so that which of
            them it is, the installed runtime tells.
    """
    gpu = [name for name in PREFERRED if name in available] if device == "cuda" else []
    return [*gpu, "CPUExecutionProvider"]


def export(denoiser: Module, inputs: Mapping[str, Tensor], file: Path) -> None:
    """Write a denoiser as a graph for any batch size.

    Args:
        denoiser: called with ``inputs`` by position, in their order; gives one tensor.
        inputs: an example with two samples; ``timestep`` is one number for all of them.
        file: ``….onnx``.

    Raises:
        ConfigurationError: the exporter isn't installed.
        ModelError: the model can't be exported.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple(None if tensor.ndim == 0 else {0: batch} for tensor in inputs.values())
    program: Any
    try:
        program = torch.onnx.export(
            denoiser,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=[OUTPUT],
            optimize=True,
            verbose=False,
        )
    except ImportError as err:
        msg = f"a graph needs onnx and onnxscript ({err}): pip install onnx onnxscript"
        raise ConfigurationError(msg) from err
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as err:
        msg = f"the denoiser can't be written as a graph: {str(err).splitlines()[0]}"
        raise ModelError(msg) from err
    size = sum(weight.nbytes for weight in denoiser.state_dict().values())
    program.save(file, external_data=size > LARGE)


def quantise(source: Path, file: Path) -> None:
    """Write a graph once more, its linear layers in 8 bits with a scale for each channel.

    Activations are quantised as they come (dynamic), as the article's ``quantize_dynamic`` does;
    convolutions stay: ONNX Runtime's 8-bit ones are slower on CPUs than the float ones.

    Raises:
        ModelError: the graph can't be quantised.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        quantize_dynamic(
            str(source),
            str(file),
            op_types_to_quantize=LINEAR,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    except (RuntimeError, ValueError) as err:
        msg = f"graph {source.name} can't be quantised: {str(err).splitlines()[0]}"
        raise ModelError(msg) from err


def open_graph(file: Path, device: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function that runs a graph on named inputs.

    Raises:
        ModelError: the file can't be run.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=providers(onnxruntime.get_available_providers(), device)
        )
    except Exception as err:  # its errors share no base class
        msg = f"graph {file.name} can't be run: {str(err).splitlines()[0]}; build it again"
        raise ModelError(msg) from err
    log.info("graph %s runs on %s", file.name, session.get_providers()[0])

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        given: dict[str, Any] = {
            name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()
        }
        made = torch.from_numpy(session.run([OUTPUT], given)[0])
        return made.to(next(iter(inputs.values())).device)

    return run
