"""SDXL's layers as its authors (and kohya, A1111, Forge, ComfyUI) name them.

diffusers renamed them; LoRAs for SDXL circulate under the authors' names
(``lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k``), those for SD 1.x under
diffusers'. Checked against diffusers' own converter.
"""

from __future__ import annotations

import re

PER_BLOCK = 3
"""Layers that one block of SDXL's has, the one that changes the size included."""
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def sgm_name(layer: str) -> str:
    """``down_blocks.1.attentions.0.proj_in`` → ``input_blocks.4.1.proj_in``.

    Raises:
        ValueError: SDXL has no such layer.
    """
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    found = _BLOCK.fullmatch(layer)
    if found is None:
        msg = f"{layer} is no layer of SDXL's UNet"
        raise ValueError(msg)
    side, block, kind, number, rest = found.groups()
    at, inner = int(block or 0), int(number)
    if kind == "resnets":
        rest = _RESNET.get(rest, rest)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * inner}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{PER_BLOCK * (at + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{PER_BLOCK * at + 2}.2.{rest}"
    place = PER_BLOCK * at + inner + (1 if side == "down" else 0)
    where = "input_blocks" if side == "down" else "output_blocks"
    return f"{where}.{place}.{1 if kind == 'attentions' else 0}.{rest}"
