"""A randomly made BLIP of the real classes, small enough for a test."""

from __future__ import annotations

from pathlib import Path

WORDS = ("a", "red", "cat", "dog", "on", "the", "table", "house", "tree", "with", "of", "blue")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_blip(folder: Path, *, seed: int = 0, safe: bool = True) -> Path:
    """Save one; without ``safe`` its weights are a pickle, which nothing here may open."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
    )

    folder.mkdir(parents=True)
    words = [*SPECIAL, *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    text = {
        "vocab_size": len(words) + 1,  # BLIP's first token, [DEC], is not in its tokenizer
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "bos_token_id": len(words),
        "pad_token_id": words.index("[PAD]"),
        "eos_token_id": words.index("[SEP]"),
        "sep_token_id": words.index("[SEP]"),
    }
    torch.manual_seed(seed)
    config = BlipConfig(
        text_config=small | text, vision_config=small | {"image_size": 32, "patch_size": 16}
    )
    model = BlipForConditionalGeneration(config)
    for weight in model.parameters():  # the library's own 0.02 makes every picture alike
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.6)
    bias = model.text_decoder.cls.predictions.bias
    with torch.no_grad():  # words only: an untrained model knows no use for [CLS]
        bias[[*range(len(SPECIAL)), len(words)]] = -1e4
        bias[words.index("[SEP]")] = -3.0
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipImageProcessorPil(size=size).save_pretrained(folder)
    if not safe:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder
