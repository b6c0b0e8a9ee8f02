"""Family sdxl, on a tiny random model of the real classes."""

from __future__ import annotations

import copy
import gc
import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_factory.diffusion.bank import Worn
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest, Text
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.lora_file import write_kohya
from lora_factory.diffusion.naming import sgm_name
from lora_factory.diffusion.objective import autocast, denoising_loss
from lora_factory.diffusion.parts import Loader
from lora_factory.errors import Interrupted, ModelError
from lora_factory.models.cache import sha256_of
from lora_factory.models.lock import LockedFile, LockedModel
from lora_factory.models.profiles import BaseEntry
from tiny_sdxl import FIRST, SECOND, make_sdxl

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.0.proj")
REQUESTS = [GenerationRequest(text, seed) for text, seed in (("cat", 1), ("tree", 2), ("", 3))]


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> BaseEntry:
    return make_sdxl(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture(scope="module")
def loaded(entry: BaseEntry) -> DiffusionBase:
    torch.set_num_threads(1)
    return load_base(entry, device="cpu")


@pytest.fixture
def base(loaded: DiffusionBase) -> Any:
    yield loaded
    for name in "abc":
        loaded.drop_adapter(name)
    loaded.use_adapter(None)


def plain_pipeline(entry: BaseEntry) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(entry.location(), add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(base: DiffusionBase, requests: list[GenerationRequest], **more: Any) -> np.ndarray:
    images = base.generate(requests, steps=3, guidance=4.0, **more)
    return np.stack([np.asarray(image) for image in images]) / 255.0


def a_batch(base: DiffusionBase) -> tuple[torch.Tensor, Text, torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=dice).unbind(0)
    return latents, base.encode_texts(["cat", "tree"]), noise, torch.tensor([200, 800])


def trained(base: DiffusionBase, name: str, steps: int = 12) -> list[float]:
    """Overfit one batch; the losses."""
    weights = base.add_adapter(name, 4, 2.0, TARGETS)
    optimizer = torch.optim.AdamW(weights, lr=2e-2)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64], [100, 80, 5, 0, 64, 64]])
    losses = []
    for _ in range(steps):
        loss = denoising_loss(base, *a_batch(base), sizes=sizes).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_prompts_are_encoded_as_the_pipeline_does(base: DiffusionBase, entry: BaseEntry) -> None:
    prompts = ["a red cat", "tree " * 100]
    ours = base.encode_texts(prompts)
    assert {name: tuple(rows.shape) for name, rows in ours.items()} == {
        "text_encoder": (2, 32, FIRST),
        "text_encoder_2": (2, 32, SECOND),
        "pooled": (2, SECOND),
    }
    with torch.no_grad():
        states, _, pooled, _ = plain_pipeline(entry).encode_prompt(prompts)
    both = torch.cat([ours["text_encoder"], ours["text_encoder_2"]], dim=-1)
    assert torch.allclose(both, states, atol=1e-5)
    assert torch.allclose(ours["pooled"], pooled, atol=1e-5)
    assert base.overlong(prompts) == [1]
    # The authors' base knows no text as zeros.
    assert not any(rows.any() for rows in base.encode_texts([""]).values())


def test_generation_is_the_pipelines(base: DiffusionBase, entry: BaseEntry) -> None:
    (ours,) = base.generate([REQUESTS[0]], steps=3, guidance=4.0)
    (theirs,) = plain_pipeline(entry)(
        "cat",
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(1),
        height=64,
        width=64,
    ).images
    assert np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max() <= 1.0


def test_a_seed_gives_its_image_in_any_batch_and_a_caller_may_cancel(base: DiffusionBase) -> None:
    whole, parts = draw(base, REQUESTS), draw(base, REQUESTS, batch_size=2)
    assert np.abs(whole - parts).max() <= 1.5 / 255
    with pytest.raises(Interrupted):
        base.generate(REQUESTS, steps=5, guidance=4.0, on_step=lambda done, _total: done < 2)


def test_a_projection_sees_each_output_and_changes_the_picture(base: DiffusionBase) -> None:
    seen: list[set[str]] = []

    def turned(_prompts: Any, text: Text) -> Text:
        seen.append(set(text))
        return {name: -rows for name, rows in text.items()}

    plain, changed = draw(base, REQUESTS), draw(base, REQUESTS, text_projection=turned)
    assert seen == [{"text_encoder", "text_encoder_2", "pooled"}]
    assert np.abs(plain[0] - changed[0]).max() > 0.01


def test_sizes_matter_and_default_to_the_pictures_own(base: DiffusionBase) -> None:
    latents, text, _, steps = a_batch(base)
    with torch.no_grad():
        bare = base.predict(latents, steps, text)
        own = base.predict(latents, steps, text, torch.tensor([[64, 64, 0, 0, 64, 64]] * 2))
        cut = base.predict(latents, steps, text, torch.tensor([[900, 64, 300, 0, 64, 64]] * 2))
    assert torch.equal(bare, own)
    assert (cut - bare).abs().max() > 1e-4


def test_a_lora_overfits_a_batch_and_loads_in_plain_diffusers_in_both_layouts(
    base: DiffusionBase, entry: BaseEntry, tmp_path: Path
) -> None:
    losses = trained(base, "a")
    assert losses[-1] < 0.8 * losses[0]
    base.save_adapter("a", tmp_path / "lora.safetensors", {})
    write_kohya(tmp_path / "lora.safetensors", tmp_path / "kohya.safetensors")
    latents, text, _, steps = a_batch(base)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    with torch.no_grad():
        ours = base.predict(latents, steps, text, sizes)
        base.use_adapter(None)
        bare = base.predict(latents, steps, text, sizes)
    assert (ours - bare).abs().max() > 0.02
    layers = len(base.read_adapter(tmp_path / "lora.safetensors").layers)
    states = torch.cat([text["text_encoder"], text["text_encoder_2"]], dim=-1)
    added = {"text_embeds": text["pooled"], "time_ids": sizes}
    for number, name in enumerate(("lora.safetensors", "kohya.safetensors")):
        pipeline = plain_pipeline(entry)
        pipeline.load_lora_weights(tmp_path, weight_name=name)
        with torch.no_grad():
            theirs = pipeline.unet(latents, steps, states, added_cond_kwargs=added).sample
        assert (ours - theirs).abs().max() < 1e-3
        taken = [module for module in pipeline.unet.modules() if hasattr(module, "lora_A")]
        assert len(taken) == layers  # every key consumed
        # … and by ourselves, whoever named the layers
        base.load_adapter("bc"[number], tmp_path / name)
        base.use_adapter("bc"[number])
        with torch.no_grad():
            assert (ours - base.predict(latents, steps, text, sizes)).abs().max() < 1e-3


def test_the_files_say_what_they_are_for(base: DiffusionBase, tmp_path: Path) -> None:
    base.add_adapter("a", 4, 4.0, TARGETS)
    base.save_adapter("a", tmp_path / "lora.safetensors", {})
    write_kohya(tmp_path / "lora.safetensors", tmp_path / "kohya.safetensors")
    with safe_open(str(tmp_path / "kohya.safetensors"), framework="pt") as opened:
        header, keys = opened.metadata(), list(opened.keys())
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert header["ss_base_model_version"].startswith("sdxl")  # how A1111 tells SDXL
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_down.weight" in keys
    assert "lora_unet_middle_block_1_proj_in.alpha" in keys
    assert all(key.startswith("lora_unet_") and "down_blocks" not in key for key in keys)
    assert len(keys) == 3 * len(load_file(tmp_path / "lora.safetensors")) / 2


def test_every_layer_has_the_name_that_diffusers_converter_reads(entry: BaseEntry) -> None:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    unet = UNet2DConditionModel.from_pretrained(entry.location(), subfolder="unet")
    layers = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert len({sgm_name(layer) for layer in layers}) == len(layers) > 100
    kohya = {}
    for layer in layers:
        stem = "lora_unet_" + sgm_name(layer).replace(".", "_")
        kohya[f"{stem}.lora_down.weight"] = kohya[f"{stem}.lora_up.weight"] = torch.zeros(1, 1)
        kohya[f"{stem}.alpha"] = torch.tensor(1.0)
    mapped = _maybe_map_sgm_blocks_to_diffusers(copy.copy(kohya), unet.config)
    found, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    named = {re.split(r"[._]lora", key.removeprefix("unet."))[0] for key in found}
    named = {name.replace(".processor", "") for name in named}
    assert {re.sub(r"\.to_out$", ".to_out.0", name) for name in named} == set(layers)
    with pytest.raises(ValueError, match="no layer of SDXL"):
        sgm_name("transformer_blocks.0.attn.to_q")


def test_loras_and_the_base_share_a_batch(base: DiffusionBase, tmp_path: Path) -> None:
    for name in "ab":
        trained(base, name, steps=3 if name == "a" else 6)
        base.save_adapter(name, tmp_path / f"{name}.safetensors", {})
        base.drop_adapter(name)
        base.load_adapter(name, tmp_path / f"{name}.safetensors")
    alone = []
    for name, request in zip(("a", "b", None), REQUESTS, strict=True):
        base.use_adapter(name)
        alone.append(draw(base, [request])[0])
    mixed = draw(base, REQUESTS, adapters=[Worn("a"), Worn("b"), None])
    assert np.abs(mixed - np.stack(alone)).max() <= 1.5 / 255


def test_encoders_leave_memory_and_come_back_the_same(entry: BaseEntry) -> None:
    base: Any = load_base(entry, device="cpu")
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    before = (base.encode_images([image])[0], base.encode_texts(["cat"])["pooled"])
    hashes = base.image_encoder_hash, base.text_encoder_hash
    held = [weakref.ref(base._parts[n]) for n in ("vae", "text_encoder", "text_encoder_2")]
    base.release_encoders()
    gc.collect()
    assert [ref() for ref in held] == [None] * 3
    assert (base.image_encoder_hash, base.text_encoder_hash) == hashes
    after = (base.encode_images([image])[0], base.encode_texts(["cat"])["pooled"])
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert len(base.generate([REQUESTS[0]], steps=1, guidance=2.0)) == 1


def test_hashes_follow_the_weights_and_nothing_else(entry: BaseEntry, tmp_path: Path) -> None:
    first: Any = load_base(entry, device="cpu")
    copied = tmp_path / "moved"
    shutil.copytree(entry.location(), copied)
    moved = entry.model_copy(update={"path": str(copied), "name": "other"})
    same: Any = load_base(moved, device="cpu")
    assert same.image_encoder_hash == first.image_encoder_hash
    assert same.text_encoder_hash == first.text_encoder_hash
    vae = copied / "vae/config.json"
    vae.write_text(vae.read_text().replace("0.13025", "0.2"))
    other: Any = load_base(moved, device="cpu")
    assert other.image_encoder_hash != first.image_encoder_hash
    assert other.text_encoder_hash == first.text_encoder_hash
    index = copied / "model_index.json"
    index.write_text(index.read_text().replace("true", "false"))
    assert load_base(moved, device="cpu").text_encoder_hash != first.text_encoder_hash


def test_a_base_of_another_family_is_refused(entry: BaseEntry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="StableDiffusionXLPipeline, family sd1 for"):
        load_base(entry.model_copy(update={"family": "sd1"}), device="cpu")
    copied = tmp_path / "xl"
    shutil.copytree(entry.location(), copied)
    moved = entry.model_copy(update={"path": str(copied)})
    (copied / "model_index.json").unlink()  # then the shapes tell
    with pytest.raises(ModelError, match="UNet expects text 48 wide, its encoder gives 16"):
        load_base(moved.model_copy(update={"family": "sd1"}), device="cpu")
    file = copied / "unet/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"projection_class_embeddings_input_dim": 90}))
    with pytest.raises(ModelError, match="unet"):
        load_base(moved, device="cpu")
    shutil.rmtree(copied / "text_encoder_2")
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="text_encoder_2") as caught:
        load_base(moved, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_base_whose_files_are_not_the_locked_ones_is_refused(
    entry: BaseEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "7" * 40
    folder = tmp_path / "models--org--xl" / "snapshots" / commit
    shutil.copytree(entry.location(), folder)
    files = {
        file.relative_to(folder).as_posix(): LockedFile(
            size=file.stat().st_size, sha256=sha256_of(file)
        )
        for file in folder.rglob("*")
        if file.is_file()
    }
    locked = LockedModel(model="org/xl", revision=commit, commit=commit, files=files)
    of_hub = entry.model_copy(
        update={"path": None, "model": "org/xl", "revision": commit, "locked": locked}
    )
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"vae/.* has another sha256 than the lock") as caught:
        load_base(of_hub, device="cpu")
    assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(ModelError, match=r"vae/.* is missing"):
        load_base(of_hub, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_vae_that_overflows_stays_whole(
    entry: BaseEntry, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As on an accelerator; the folder says ``force_upcast``."""
    plain = Loader.__init__

    def halved(loader: Loader, entry: BaseEntry, device: str) -> None:
        plain(loader, entry, device)
        loader.dtype = dtype

    exact = load_base(entry, device="cpu")
    monkeypatch.setattr(Loader, "__init__", halved)
    base: Any = load_base(entry, device="cpu")
    assert base.dtype == base.denoiser.dtype == dtype
    assert base._parts["vae"].dtype == (torch.float32 if dtype == torch.float16 else dtype)
    latents, text, _, steps = a_batch(base)
    assert {rows.dtype for rows in text.values()} == {torch.float32}
    kept = {name: rows.to(dtype) for name, rows in text.items()}  # as the cache keeps them
    weights = base.add_adapter("a", 4, 4.0, TARGETS)
    with autocast("cpu", "fp16" if dtype == torch.float16 else "bf16"):
        made = base.predict(latents, steps, kept, torch.tensor([[1000.0, 64, 0, 0, 64, 64]] * 2))
        made.float().mean().backward()
    assert weights[1].grad is not None
    assert weights[1].grad.dtype == torch.float32
    with torch.no_grad():
        whole = exact.predict(latents, steps, text)
        base.use_adapter(None)
        near = base.predict(latents, steps, kept)
    assert (whole - near.float()).abs().max() < 0.1
    (image,) = base.generate([REQUESTS[0]], steps=2, guidance=3.0)
    (sharp,) = exact.generate([REQUESTS[0]], steps=2, guidance=3.0)
    assert np.abs(np.asarray(image, float) - np.asarray(sharp, float)).mean() < 8
