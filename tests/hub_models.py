"""Tiny models with random weights, of the very classes that profile ``standard`` names."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import PACKAGE, load_profile
from tiny_blip import make_blip

TOKENIZER = PACKAGE / "assets" / "emoji-base" / "tokenizer"
SIDE = 32


def make_models(folder: Path) -> None:
    """Write each model into a folder of its own, with files that no pull should bring."""
    import torch

    torch.manual_seed(0)
    for make in (minilm, clip, bart, nsfw):
        make(folder / make.__name__)
    make_blip(folder / "blip")
    stable_diffusion(folder / "sd1", xl=False)
    stable_diffusion(folder / "sdxl", xl=True)
    for name in ("minilm", "clip", "bart", "blip", "nsfw"):
        (folder / name / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": [0.0]}))
        (folder / name / "README.md").write_text("A card.\n")
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text("{}")
    (folder / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": [0.0]}))


def minilm(folder: Path) -> None:
    """sentence-transformers: a BERT, mean pooling, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel

    inner = folder.with_name("minilm-bert")
    BertModel(
        BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        )
    ).save_pretrained(inner)
    _bert_tokenizer().save_pretrained(inner)
    encoder = modules.Transformer(str(inner), max_seq_length=64)
    parts = [encoder, modules.Pooling(16), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    shutil.rmtree(inner)


def clip(folder: Path) -> None:
    """A CLIP with a tokenizer and an image processor."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = _clip_tokenizer()
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config=small | special,
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)


def bart(folder: Path) -> None:
    """A BART with an NLI head; byte-level BPE of the bytes alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForSequenceClassification, BartTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    BartTokenizerFast(tokenizer_object=tokenizer, model_max_length=512).save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=512,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    )
    BartForSequenceClassification(config).save_pretrained(folder)


def nsfw(folder: Path) -> None:
    """An image classifier that finds everything normal: its weights say nothing, its bias all."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=SIDE,
        patch_size=8,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([3.0, -3.0]))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def stable_diffusion(folder: Path, *, xl: bool) -> None:
    """A Stable Diffusion 1.x or XL folder in full and half precision, with pickles beside it."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _clip_tokenizer()
    text: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    }
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if xl else 32,
        attention_head_dim=8,
        norm_num_groups=8,
        **(extra if xl else {}),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=64,
    )
    models: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
    }
    tokenizer.save_pretrained(folder / "tokenizer")
    if xl:
        models["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        tokenizer.save_pretrained(folder / "tokenizer_2")
    DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    for name, model in models.items():
        model.save_pretrained(folder / name)
        model.half().save_pretrained(folder / name, variant="fp16")
        (folder / name / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    kind = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"not needed")
    (folder / "v1-5-pruned.ckpt").write_bytes(pickle.dumps({}))


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast.from_pretrained(TOKENIZER)


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizerFast

    entry = load_profile("embedded", Settings()).role("text_embedder")
    return BertTokenizerFast.from_pretrained(entry.location())
