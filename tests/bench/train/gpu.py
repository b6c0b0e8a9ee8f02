"""Training speed on a GPU: bases of SD 1.5's and SDXL's size with random weights, by LoRATrainer.

train.gpu_<base>_flop_share: FLOP/s of training (forward and backward of the denoiser, as torch
counts them) over those of a large matrix product in the same precision on the same card, at batch
8; images/s at batch 1 and 8 and peak memory are in its text.
train.gpu_sdxl_peak_gib: peak memory at batch 1 and 1024 pixels, without gradient checkpointing.

Without a GPU nothing is measured. ``--tiny``: the same code on a small UNet on this CPU, which
says only that it runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from lora_factory.diffusion.parts import Parts  # noqa: E402
from lora_factory.diffusion.sd1 import Sd1Base  # noqa: E402
from lora_factory.diffusion.sdxl import SdxlBase  # noqa: E402
from lora_factory.models.profiles import BaseEntry  # noqa: E402
from lora_factory.train.data import Bucket, Shape, Split  # noqa: E402
from lora_factory.train.loop import Data, LoRATrainer  # noqa: E402
from lora_factory.train.stage import ADAPTER  # noqa: E402
from lora_factory.train.state import Adapter  # noqa: E402
from tiny_sdxl import TOKENIZER  # noqa: E402
from training_data import context, make_plan  # noqa: E402

STEPS, IMAGES, TOKENS, RANK, SIDE = 20, 16, 77, 16, 8192
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
WIDTHS = {"text_encoder": 768, "text_encoder_2": 1280}
XL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
BASES: dict[str, tuple[int, dict[str, Any]]] = {
    "sd15": (512, {"cross_attention_dim": 768}),  # the class's defaults are SD 1.x's
    "sdxl": (1024, XL),
}


def make_base(name: str, device: str, *, tiny: bool) -> Any:
    """A base whose denoiser has the real size; encoders and VAE are never run, so are small."""
    side, shape = BASES[name]
    if tiny:
        levels = len(shape.get("block_out_channels", range(4)))
        side, shape = 64, shape | {"block_out_channels": (64,) * levels}
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=side // 8, **shape).to(dtype)
    unet.eval().requires_grad_(False)
    text = {
        part: CLIPTextConfig(
            hidden_size=width,
            projection_dim=width,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=64,
        )
        for part, width in WIDTHS.items()
    }
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    found: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "scheduler": EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "text_encoder": CLIPTextModel(text["text_encoder"]),
        "text_encoder_2": CLIPTextModelWithProjection(text["text_encoder_2"]),
    }
    parts = Parts({part: (lambda value=value: value) for part, value in found.items()})
    entry = BaseEntry(
        name=name,
        family="sd1" if name == "sd15" else "sdxl",
        path=str(ROOT),
        domains=("art",),
        resolution=side,
        learning_rate=1e-4,
        max_rank=RANK,
        steps=20,
        guidance=5.0,
    )
    return (Sd1Base if name == "sd15" else SdxlBase)(entry, device, parts)


def make_split(base: Any) -> Split:
    """Random latents and texts."""
    side, dtype = base.entry.resolution, base.dtype
    latents = torch.randn(1, 1, IMAGES, 4, side // 8, side // 8)
    sizes = torch.tensor([side, side, 0, 0, side, side]).expand(1, 1, IMAGES, 6)
    rows = {
        part: torch.randn(1, IMAGES, TOKENS, width, dtype=dtype)
        for part, width in WIDTHS.items()
        if part in base.encoders
    }
    if "text_encoder_2" in rows:
        rows["pooled"] = torch.randn(1, IMAGES, WIDTHS["text_encoder_2"], dtype=dtype)
    bucket = Bucket(
        Shape(side, side), tuple(range(IMAGES)), latents, torch.zeros_like(latents), sizes
    )
    files = tuple(f"{number}.png" for number in range(IMAGES))
    return Split((bucket,), rows, {part: row[0, :1] for part, row in rows.items()}, files)


def measure(base: Any, batch: int, work: Path) -> tuple[float, float, float]:
    """Images/s, FLOP an image, peak memory in GiB (0 on a CPU)."""
    on_gpu = base.device == "cuda"
    plan = make_plan(
        rank=RANK,
        alpha=float(RANK),
        target_modules=TARGETS,
        batch_size=batch,
        steps=STEPS,
        resolution=base.entry.resolution,
        mixed_precision="bf16" if on_gpu else "no",
    )
    weights = base.add_adapter(ADAPTER, RANK, float(RANK), TARGETS)
    split = make_split(base)
    adapter = Adapter(ADAPTER, weights, lambda _file, _step: None)
    trainer = LoRATrainer(plan, base, Data(split, split), adapter, context(work))
    with FlopCounterMode(display=False) as counted:
        trainer._step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    steps = 2 if base.device == "cpu" else STEPS
    for _ in range(steps):
        trainer._step()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    base.drop_adapter(ADAPTER)
    return batch * steps / seconds, counted.get_total_flops() / batch, peak


def product_flops(base: Any) -> float:
    """FLOP/s of a large matrix product in the base's precision."""
    side = SIDE if base.device == "cuda" else 512
    one = torch.randn(side, side, device=base.device, dtype=base.dtype)
    for tries in (3, 20):  # the first to warm up
        if base.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(tries):
            torch.mm(one, one)
        if base.device == "cuda":
            torch.cuda.synchronize()
    return 2.0 * side**3 * tries / (time.perf_counter() - started)


def figure(value: float, goal: float, better: str, unit: str, against: str) -> dict[str, object]:
    return {
        "value": round(value, 4),
        "unit": unit,
        "goal": goal,
        "better": better,
        "against": against,
        "command": "make bench ONLY=train",
    }


def main() -> None:
    tiny = "--tiny" in sys.argv
    if not torch.cuda.is_available() and not tiny:
        sys.stderr.write("train/gpu.py: no GPU here, nothing measured\n")
        return
    device = "cpu" if tiny else "cuda"
    for name in BASES:
        base = make_base(name, device, tiny=tiny)
        with tempfile.TemporaryDirectory() as folder:
            runs = {batch: measure(base, batch, Path(folder) / str(batch)) for batch in (1, 8)}
        share = runs[8][0] * runs[8][1] / product_flops(base)
        card = torch.cuda.get_device_name() if device == "cuda" else "CPU, tiny"
        against = f"{card}: " + ", ".join(
            f"batch {batch}: {rate:.2f} images/s, {flops / 1e12:.3g} TFLOP each, {peak:.1f} GiB"
            for batch, (rate, flops, peak) in runs.items()
        )
        found = {f"train.gpu_{name}_flop_share": figure(share, 0.4, "higher", "share", against)}
        if name == "sdxl":
            found["train.gpu_sdxl_peak_gib"] = figure(runs[1][2], 22, "lower", "GiB", against)
        sys.stdout.write(json.dumps(found) + "\n")
        del base


if __name__ == "__main__":
    main()
