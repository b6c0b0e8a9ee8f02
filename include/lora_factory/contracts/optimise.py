"""Builds: a LoRA made smaller or faster, and what it costs and saves (article, section 5.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_factory.contracts.base import Contract, StageReport

Step = Literal["truncate", "fuse", "compile", "onnx", "int8", "tensorrt"]
"""truncate: the LoRA at lower ranks (the article's pruning). fuse: the denoiser with the LoRA in
its weights. compile: that, by torch's compiler. onnx: that as a graph, whose runtime fuses layers;
on NVIDIA, AMD and CPUs alike. int8: the graph with linear layers in 8 bits. tensorrt: an engine
for one kind of NVIDIA GPU."""

Form = Literal["lora", "weights", "graph", "engine"]


class BuildInfo(Contract):
    """``build.json``: what a build is and what it was made from."""

    step: Step
    form: Form
    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Beside build.json")
    compiled: bool = Field(default=False, description="torch.compile it once it is loaded")
    base: str
    base_revision: str
    lora_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the LoRA file in it")
    made_with: dict[str, str] = Field(default_factory=dict, description="Library → version")
    device: str = Field("", description="GPU an engine was built for; others refuse it")


class OptimiseReport(StageReport):
    """Stats of a build artifact: before (the LoRA beside the base's weights) and after."""

    step: Step
    form: Form
    bytes_before: int = Field(ge=0, description="Of what is loaded to draw")
    bytes_after: int = Field(ge=0)
    rank_before: int = Field(ge=1, description="The largest of any layer")
    rank_after: int = Field(ge=0, description="0: the LoRA is in the weights")
    seconds_before: float = Field(ge=0, description="Median of one picture alone")
    seconds_after: float = Field(ge=0)
    difference: float = Field(
        ge=0, description="Mean absolute difference of the pictures, 0 to 255"
    )
    change: float = Field(ge=0, description="What the LoRA itself changes, for comparison")
    pictures: int = Field(ge=1)
    worthwhile: bool = Field(description="Smaller or faster, and alike enough to be judged")
    note: str = ""
