"""The four parts, each from the one before: tokenizer, VAE, small CLIP, UNet with its text encoder.

Sizes are those of the embedded profile: 64 px, latents 8×16×16, 32 tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.demo.pretrain.augment import recoloured, shifted, to_unit
from lora_factory.demo.pretrain.loop import Recipe, Slice, train_part

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from lora_factory.demo.pretrain.icons import Icons

TOKENS = 32
WIDTH = 192
VAE = Recipe("vae", rate=3e-3, batch=8, images=22_000, average=0.995)
CLIP = Recipe("clip", rate=1.2e-3, batch=160, images=250_000)
UNET = Recipe("unet", rate=1.5e-3, batch=32, images=150_000, slow=("text.",))
"""What two CPU cores do in about two hours. On a GPU ask for 30 times as many with ``--more``."""
TEMPLATES = (
    "{name}",
    "{name} icon",
    "{name}, {style} style",
    "a {name}",
    "an icon of a {name}",
    "{style} {name}",
    "{style} style icon of {name}",
)
EMPTY = 0.1
"""Share of captions left empty, for guidance without a classifier."""
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
}
NEGLIGIBLE = 1e-3  # weight of the KL term


def caption(name: str, style: str, draw: Generator) -> str:
    """A name in one of the templates, or nothing."""
    import torch

    if float(torch.rand(1, generator=draw)) < EMPTY:
        return ""
    chosen = int(torch.randint(len(TEMPLATES), (1,), generator=draw))
    return TEMPLATES[chosen].format(name=name, style=style)


def make_tokenizer(names: tuple[str, ...], styles: tuple[str, ...], folder: Path) -> Any:
    """Byte-level BPE in CLIP's format, from words that occur at least twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=end))
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
    )
    captions = (
        template.format(name=name, style=style)
        for name, style in zip(names, styles, strict=True)
        for template in TEMPLATES
    )
    # Word by word, as CLIP's tokenizer cuts a text: a space belongs to no word.
    words = (word for text in captions for word in text.lower().replace(",", " ,").split())
    learned.train_from_iterator(words, trainer)
    model = json.loads(learned.to_str())["model"]
    vocabulary = {**model["vocab"]}
    for special in (start, end):
        vocabulary[special] = len(vocabulary)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    made = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
        model_max_length=TOKENS,
    )
    made.save_pretrained(folder)
    return made


def train_vae(icons: Icons, work: Slice) -> Any:
    """AutoencoderKL, 64 px → 8×16×16, on augmented icons; sets the scaling factor."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        **kinds,
    ).to(work.device)

    def loss_of(draw: Generator, count: int) -> Tensor:
        picked = torch.randint(len(icons), (count,), generator=draw)
        images = recoloured(shifted(to_unit(icons.pixels[picked]), draw), draw).to(work.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw).to(work.device)
        made = vae.decode(posterior.mean + posterior.std * noise).sample
        apart = made - images
        edges = sum((_edges(made, axis) - _edges(images, axis)).abs().mean() for axis in (-1, -2))
        error: Tensor = apart.abs().mean() + apart.square().mean() + edges
        return error + NEGLIGIBLE * posterior.kl().mean() / posterior.mean[0].numel()

    vae = train_part(VAE, vae, loss_of, work).eval()
    with torch.inference_mode():
        latents = vae.encode(to_unit(icons.pixels[::5]).to(work.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def _edges(images: Tensor, axis: int) -> Tensor:
    return images.diff(dim=axis)


def train_clip(icons: Icons, tokenizer: Any, work: Slice) -> Any:
    """CLIPModel on icons and captions; icons of one name count as positives together."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig.from_dict(_clip_config(tokenizer))).to(work.device).train()
    number = {name: at for at, name in enumerate(dict.fromkeys(icons.names))}
    same = torch.tensor([number[name] for name in icons.names])

    def loss_of(draw: Generator, count: int) -> Tensor:
        picked = torch.randperm(len(icons), generator=draw)[:count]
        images = recoloured(shifted(to_unit(icons.pixels[picked]), draw), draw).to(work.device)
        captions = [
            caption(icons.names[at], icons.styles[at], draw) or icons.names[at] for at in picked
        ]
        found = clip(input_ids=_tokens(tokenizer, captions).to(work.device), pixel_values=images)
        target = (same[picked][:, None] == same[picked][None]).float().to(work.device)
        target = target / target.sum(1, keepdim=True)
        scores = found.logits_per_image
        cross = torch.nn.functional.cross_entropy
        made: Tensor = (cross(scores, target) + cross(scores.T, target)) / 2
        return made

    return train_part(CLIP, clip, loss_of, work).eval()


def _clip_config(tokenizer: Any) -> dict[str, Any]:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "hidden_act": "gelu",
        "projection_dim": 128,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "hidden_act": "gelu",
        "projection_dim": 128,
    }
    return {"text_config": text, "vision_config": vision, "projection_dim": 128}


def _tokens(tokenizer: Any, captions: list[str]) -> Tensor:
    found: Tensor = tokenizer(
        captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return found


def train_unet(icons: Icons, tokenizer: Any, vae: Any, clip: Any, work: Slice) -> tuple[Any, Any]:
    """UNet and text encoder on latents; the encoder starts as the small CLIP's text tower."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict({
        name: clip.state_dict()[f"text_model.{name.removeprefix('text_model.')}"]
        for name in text.state_dict()
    })
    both = torch.nn.ModuleDict({"unet": unet, "text": text}).to(work.device)
    schedule = DDPMScheduler(**SCHEDULE)
    factor = vae.config.scaling_factor

    def loss_of(draw: Generator, count: int) -> Tensor:
        picked = torch.randint(len(icons), (count,), generator=draw)
        images = shifted(to_unit(icons.pixels[picked]), draw).to(work.device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean * factor
        captions = [caption(icons.names[at], icons.styles[at], draw) for at in picked]
        said = both["text"](_tokens(tokenizer, captions).to(work.device))[0]
        noise = torch.randn(latents.shape, generator=draw).to(work.device)
        parts = torch.randperm(count, generator=draw) + torch.rand(count, generator=draw)
        times = (parts / count * schedule.config.num_train_timesteps).long().to(work.device)
        noised = schedule.add_noise(latents, noise, times)
        wanted = schedule.get_velocity(latents, noise, times)
        made: Tensor = (both["unet"](noised, times, said).sample - wanted).square().mean()
        return made

    both = train_part(UNET, both, loss_of, work).eval()
    return both["unet"], both["text"]
