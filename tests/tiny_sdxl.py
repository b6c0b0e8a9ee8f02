"""A random SDXL in miniature: the real classes, blocks and naming; other widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_factory.models.profiles import PACKAGE, BaseEntry

TOKENIZER = PACKAGE / "assets" / "emoji-base" / "tokenizer"
FIRST, SECOND = 16, 32
"""Widths of the text encoders."""


def make_sdxl(folder: Path) -> BaseEntry:
    """Write the model; its entry in a profile."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)

    def text(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=3,
            num_attention_heads=2,
            projection_dim=width,
            max_position_embeddings=tokenizer.model_max_length,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "text_encoder": CLIPTextModel(text(FIRST)),
            "text_encoder_2": CLIPTextModelWithProjection(text(SECOND)),
            "unet": UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32, 32),
                layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                attention_head_dim=(1, 2, 2),
                cross_attention_dim=FIRST + SECOND,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=SECOND + 6 * 8,
                norm_num_groups=8,
            ),
            "vae": AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                norm_num_groups=4,
                sample_size=64,
                scaling_factor=0.13025,
                force_upcast=True,
            ),
            "scheduler": EulerDiscreteScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
            ),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer,
        }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    library = {
        name: ["diffusers" if name in {"unet", "vae", "scheduler"} else "transformers", kind]
        for name, kind in ((name, type(part).__name__) for name, part in parts.items())
    }
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index | library))
    return BaseEntry(
        name="tiny-xl",
        family="sdxl",
        path=str(folder),
        domains=("art",),
        resolution=64,
        learning_rate=1e-4,
        max_rank=8,
        steps=2,
        guidance=5.0,
    )
