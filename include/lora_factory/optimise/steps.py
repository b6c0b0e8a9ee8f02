"""The steps: each writes one build (article, section 5.2: quantize, prune, fuse, TensorRT)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.optimise import BuildInfo, Form, Step
from lora_factory.diffusion.builds import by_position
from lora_factory.diffusion.engines import graph, tensorrt
from lora_factory.diffusion.lora_file import write_lora
from lora_factory.diffusion.truncate import rank_header, truncate

if TYPE_CHECKING:
    from lora_factory.contracts.specs import OptimiseSpec
    from lora_factory.contracts.stage import StageContext
    from lora_factory.diffusion.base import DiffusionBase

WEIGHTS = "denoiser.safetensors"
GRAPH = "denoiser.onnx"
LORA = "lora.safetensors"


@dataclass(frozen=True)
class Job:
    """What a step works on: a base with the LoRA loaded as ``adapter`` from ``file``."""

    spec: OptimiseSpec
    ctx: StageContext
    base: DiffusionBase
    adapter: str
    file: Path


@dataclass(frozen=True)
class Made:
    """What a step wrote into the artifact: its main file, and what is told of it."""

    form: Form
    file: str
    compiled: bool = False
    device: str = ""
    libraries: tuple[str, ...] = ("torch",)

    def info(self, step: Step, base: DiffusionBase, lora_sha256: str) -> BuildInfo:
        """``build.json``."""
        return BuildInfo(
            step=step,
            form=self.form,
            file=self.file,
            compiled=self.compiled,
            base=base.entry.name,
            base_revision=base.entry.resolve_revision(),
            lora_sha256=lora_sha256,
            made_with={name: version(name) for name in self.libraries},
            device=self.device,
        )


def truncated(job: Job) -> Made:
    """The LoRA at the ranks that hold the spec's energy."""
    found = job.base.read_adapter(job.file)
    layers = truncate(found.layers, job.spec.energy)
    write_lora(job.ctx.out / LORA, layers, rank_header(found.metadata, layers))
    return Made("lora", LORA, libraries=("torch", "safetensors"))


def fused(job: Job) -> Made:
    """The denoiser's weights with the LoRA in them, in the base's precision."""
    from safetensors.torch import save_file

    weights = job.base.fused_denoiser(job.adapter).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, _out(job, WEIGHTS))
    return Made("weights", WEIGHTS, libraries=("torch", "diffusers"))


def compiled(job: Job) -> Made:
    """The fused weights, compiled wherever they are loaded."""
    made = fused(job)
    return Made(made.form, made.file, compiled=True, libraries=made.libraries)


def exported(job: Job) -> Made:
    """The fused denoiser as a graph."""
    _export(job, _out(job, GRAPH))
    return Made("graph", GRAPH, libraries=("torch", "onnx", "onnxruntime"))


def quantised(job: Job) -> Made:
    """The graph with linear layers in 8 bits."""
    whole = job.ctx.scratch / GRAPH
    _export(job, whole)
    graph.quantise(whole, _out(job, GRAPH))
    return Made("graph", GRAPH, libraries=("torch", "onnx", "onnxruntime"))


def engine(job: Job) -> Made:
    """A TensorRT engine for this machine's GPU; says what is missing before the long export."""
    gpu, library = tensorrt.gpu_here(), tensorrt.library()
    import torch

    shapes = {name: tuple(t.shape) for name, t in job.base.denoiser_example().items()}
    free = torch.cuda.mem_get_info()[0]
    plan = tensorrt.plan_engine(job.base.entry.name, shapes, gpu, library.__version__, free)
    whole = job.ctx.scratch / GRAPH
    _export(job, whole)
    timings = job.ctx.settings.scratch.expanduser() / "timings"
    tensorrt.build_engine(plan, whole, _out(job, plan.name), timings)
    return Made("engine", plan.name, device=plan.device, libraries=("torch", "onnx", "tensorrt"))


STEPS: dict[Step, Callable[[Job], Made]] = {
    "truncate": truncated,
    "fuse": fused,
    "compile": compiled,
    "onnx": exported,
    "int8": quantised,
    "tensorrt": engine,
}


def _export(job: Job, file: Path) -> None:
    job.ctx.check_stop()
    graph.export(
        by_position(job.base.fused_denoiser(job.adapter)), job.base.denoiser_example(), file
    )
    job.ctx.check_stop()


def _out(job: Job, name: str) -> Path:
    return job.ctx.out / name


def copy_lora(job: Job) -> None:
    """Beside a build whose form is another, the LoRA that it was made from: it stays usable."""
    if not (job.ctx.out / LORA).exists():
        shutil.copyfile(job.file, job.ctx.out / LORA)
