"""The SD1 family on the embedded base: generation, adapters, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest
from lora_factory.diffusion.families import load_base
from lora_factory.diffusion.lora_file import write_kohya
from lora_factory.diffusion.objective import autocast, denoising_loss
from lora_factory.errors import Interrupted, ModelError
from lora_factory.models.profiles import ASSETS, BaseEntry, load_profile

TARGETS = ("to_q", "to_out.0", "conv1", "ff.net.2")
REQUESTS = [
    GenerationRequest("red apple", 1),
    GenerationRequest("house", 2),
    GenerationRequest("car", 3, "wheel"),
]


def entry(**changes: object) -> BaseEntry:
    found = load_profile("embedded", Settings()).base(None, "art")
    return found.model_copy(update=changes)


def draw(base: DiffusionBase, *requests: GenerationRequest) -> np.ndarray:
    images = base.generate(requests or REQUESTS[:1], steps=3, guidance=4.0)
    return np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])


def trained(base: DiffusionBase, name: str = "a", rank: int = 4, alpha: float = 2.0) -> None:
    """An adapter as training would leave it: B no longer zero."""
    parameters = base.add_adapter(name, rank, alpha, TARGETS, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for up in parameters[1::2]:
            up.copy_(torch.randn(up.shape, generator=generator) * 0.1)


def test_a_seed_gives_its_image_in_any_batch(base: DiffusionBase) -> None:
    together = draw(base, *REQUESTS)
    alone = draw(base, REQUESTS[2])
    assert together.shape == (3, 64, 64, 3)
    assert np.abs(together[2] - alone[0]).max() <= 1.5 / 255
    assert np.abs(together[0] - together[1]).mean() > 0.02


def test_negative_prompt_and_seed_matter(base: DiffusionBase) -> None:
    plain = draw(base, GenerationRequest("car", 3))
    assert np.abs(plain - draw(base, REQUESTS[2])).max() > 0.01
    assert np.abs(plain - draw(base, GenerationRequest("car", 4))).max() > 0.1


def test_generation_counts_its_steps_and_can_be_cancelled(base: DiffusionBase) -> None:
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> bool:
        seen.append((done, total))
        return True

    base.generate(REQUESTS, steps=2, guidance=1.0, batch_size=2, on_step=look)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(Interrupted):
        base.generate(REQUESTS, steps=5, guidance=4.0, on_step=lambda done, _total: done < 2)


def test_prompts_and_images_are_encoded_in_the_shapes_promised(base: DiffusionBase) -> None:
    (text,) = base.encode_texts(["cat", "a " * 200]).values()
    assert text.shape == (2, 32, 192)
    assert base.overlong(["cat", "a " * 200, "a " * 30, "a " * 31]) == [1, 3]
    images = [Image.new("RGB", (80, 48), "white"), Image.new("RGB", (80, 48), "red")]
    mean, std = base.encode_images(images)
    assert mean.shape == std.shape == (2, 8, 12, 20)
    assert mean.dtype == torch.float32
    assert bool((std > 0).all())
    assert bool(mean.isfinite().all())


def test_a_fresh_adapter_changes_nothing_and_a_seed_fixes_its_weights(base: DiffusionBase) -> None:
    before = draw(base)
    first = [weight.clone() for weight in base.add_adapter("a", 4, 4.0, TARGETS, seed=5)]
    assert np.array_equal(draw(base), before)
    base.drop_adapter("a")
    second = base.add_adapter("a", 4, 4.0, TARGETS, seed=5)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert all(weight.requires_grad for weight in second)


def test_adapters_are_switched_scaled_and_dropped(base: DiffusionBase) -> None:
    plain = draw(base)
    trained(base)
    full = draw(base)
    assert np.abs(full - plain).max() > 0.05
    base.use_adapter(None)
    assert np.array_equal(draw(base), plain)
    base.use_adapter("a", 0.0)
    assert np.abs(draw(base) - plain).max() <= 1.5 / 255
    base.use_adapter("a")
    base.add_adapter("b", 2, 2.0, TARGETS)
    base.use_adapter("a")
    assert np.array_equal(draw(base), full)
    base.drop_adapter("b")
    assert np.array_equal(draw(base), full)
    base.drop_adapter("a")
    assert np.array_equal(draw(base), plain)
    with pytest.raises(ModelError, match="no adapter 'a'"):
        base.use_adapter("a")


def test_a_saved_file_acts_the_same_when_loaded_back(base: DiffusionBase, tmp_path: Path) -> None:
    plain = draw(base)
    trained(base)
    full = draw(base)
    base.save_adapter("a", tmp_path / "x.safetensors", {})
    base.drop_adapter("a")
    base.load_adapter("b", tmp_path / "x.safetensors")
    assert np.array_equal(draw(base), plain)  # loading alone doesn't switch
    base.use_adapter("b")
    assert np.abs(draw(base) - full).max() <= 1.5 / 255
    with pytest.raises(ModelError, match="taken"):
        base.load_adapter("b", tmp_path / "x.safetensors")


def test_plain_diffusers_loads_the_file_at_the_same_strength(
    base: DiffusionBase, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    trained(base, rank=4, alpha=1.0)  # strength 0.25, a quarter of what a bare file would give
    latents = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    steps = torch.tensor([200, 800])
    text = base.encode_texts(["cat", "tree"])
    with torch.no_grad():
        ours = base.predict(latents, steps, text)
        base.save_adapter("a", tmp_path / "x.safetensors", {})
        write_kohya(tmp_path / "x.safetensors", tmp_path / "kohya.safetensors")
        layers = len(base.read_adapter(tmp_path / "x.safetensors").layers)
        base.use_adapter(None)
        bare = base.predict(latents, steps, text)
        assert (ours - bare).abs().max() > 0.02
        pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "emoji-base")
        for name in ("x.safetensors", "kohya.safetensors"):
            pipeline.load_lora_weights(tmp_path, weight_name=name)
            theirs = pipeline.unet(latents, steps, text["text_encoder"]).sample
            taken = [module for module in pipeline.unet.modules() if hasattr(module, "lora_A")]
            assert len(taken) == layers  # every key consumed
            pipeline.unload_lora_weights()
            assert (ours - theirs).abs().max() < 1e-3


def test_a_zeroed_lora_up_equals_the_base(base: DiffusionBase, tmp_path: Path) -> None:
    plain = draw(base)
    parameters = base.add_adapter("a", 4, 4.0, TARGETS)
    with torch.no_grad():
        for up in parameters[1::2]:
            up.zero_()
    base.save_adapter("a", tmp_path / "x.safetensors", {})
    base.drop_adapter("a")
    base.load_adapter("b", tmp_path / "x.safetensors")
    base.use_adapter("b")
    assert np.array_equal(draw(base), plain)


def test_the_header_names_the_family(base: DiffusionBase, tmp_path: Path) -> None:
    trained(base)
    base.save_adapter("a", tmp_path / "x.safetensors", {"modelspec.trigger_phrase": "hcxq"})
    header = base.read_adapter(tmp_path / "x.safetensors").metadata
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert header["modelspec.prediction_type"] == "v"
    assert header["modelspec.trigger_phrase"] == "hcxq"
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "4"


def test_an_adapter_of_another_base_is_refused(base: DiffusionBase, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    wide = {
        f"{name}.lora_A.weight": torch.zeros(4, 320),
        f"{name}.lora_B.weight": torch.ones(320, 4),
    }
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="use its own base"):
        base.load_adapter("a", tmp_path / "wide.safetensors")
    base.add_adapter("a", 2, 2.0, TARGETS)  # the name stayed free


def test_copying_restores_a_parent(base: DiffusionBase, tmp_path: Path) -> None:
    trained(base)
    full = draw(base)
    base.save_adapter("a", tmp_path / "x.safetensors", {})
    parent = base.read_adapter(tmp_path / "x.safetensors")
    base.drop_adapter("a")
    base.add_adapter("b", parent.rank, 8.0, tuple(parent.layers))
    base.copy_into_adapter("b", parent)
    assert np.abs(draw(base) - full).max() <= 1.5 / 255
    base.drop_adapter("b")
    base.add_adapter("b", parent.rank + 1, 8.0, tuple(parent.layers))
    base.copy_into_adapter("b", parent)  # the further rank begins at nothing
    assert np.abs(draw(base) - full).max() <= 1.5 / 255
    base.add_adapter("c", parent.rank - 1, 8.0, tuple(parent.layers))
    with pytest.raises(ModelError, match="other layers or ranks"):
        base.copy_into_adapter("c", parent)


def test_targets_that_match_nothing_are_refused(base: DiffusionBase) -> None:
    with pytest.raises(ModelError, match="no layer is named"):
        base.add_adapter("a", 4, 4.0, ("nothing",))


def test_v_targets_and_weights_follow_their_formulas(base: DiffusionBase) -> None:
    config = json.loads((ASSETS / "emoji-base/scheduler/scheduler_config.json").read_text())
    betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))  # rescaled to zero terminal SNR (arXiv 2305.08891)
    kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    steps = torch.tensor([0, 400, 999])
    clean, noise = torch.randn(2, 3, 8, 4, 4).unbind(0)
    noised, target = base.add_noise(clean, noise, steps)
    weights = base.loss_weights(steps, 5.0)
    for row, step in enumerate(steps.tolist()):
        signal, spoil = kept[step] ** 0.5, (1 - kept[step]) ** 0.5
        assert torch.allclose(noised[row], signal * clean[row] + spoil * noise[row], atol=1e-4)
        assert torch.allclose(target[row], signal * noise[row] - spoil * clean[row], atol=1e-4)
        ratio = kept[step] / (1 - kept[step])
        assert weights[row] == pytest.approx(min(ratio, 5.0) / (ratio + 1), abs=1e-4)
    assert torch.equal(base.loss_weights(steps, None), torch.ones(3))


def test_an_epsilon_base_trains_on_noise(tmp_path: Path) -> None:
    base = load_base(altered(tmp_path, "scheduler", prediction_type="epsilon"), device="cpu")
    clean, noise = torch.randn(2, 1, 8, 4, 4).unbind(0)
    step = torch.tensor([300])
    assert torch.equal(base.add_noise(clean, noise, step)[1], noise)
    weight = base.loss_weights(step, 0.1)
    assert 0 < weight.item() < 1  # min(SNR, 0.1) / SNR


def test_mixed_precision_stays_close_and_gradients_are_float32(base: DiffusionBase) -> None:
    parameters = base.add_adapter("a", 4, 4.0, TARGETS)
    latents, noise = torch.randn(2, 4, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    text, steps = base.encode_texts(["cat"] * 4), torch.tensor([10, 300, 600, 900])
    exact = denoising_loss(base, latents, text, noise, steps)
    with autocast("cpu", "bf16"):
        close = denoising_loss(base, latents, text, noise, steps)
    close.mean().backward()
    assert torch.allclose(exact, close, rtol=0.05)
    assert parameters[1].grad is not None
    assert parameters[1].grad.dtype == torch.float32


def altered(folder: Path, part: str, **changes: object) -> BaseEntry:
    """The embedded base with one config changed."""
    copy = folder / "base"
    copy.mkdir()
    for source in (ASSETS / "emoji-base").iterdir():
        (copy / source.name).symlink_to(source)
    (copy / part).unlink()
    (copy / part).mkdir()
    for source in (ASSETS / "emoji-base" / part).iterdir():
        (copy / part / source.name).symlink_to(source)
    file = next(
        name for name in ("scheduler_config.json", "config.json") if (copy / part / name).exists()
    )
    config = json.loads((copy / part / file).read_text()) | changes
    (copy / part / file).unlink()
    (copy / part / file).write_text(json.dumps(config))
    return entry(path=str(copy))


@pytest.mark.parametrize(
    ("part", "changes", "complaint"),
    [
        ("scheduler", {"prediction_type": "sample"}, "can't be trained"),
        ("scheduler", {"_class_name": "Nonsense"}, "names no diffusers scheduler"),
        ("unet", {"cross_attention_dim": 64}, "unet"),
        ("unet", {"layers_per_block": 2}, "unet"),
        ("vae", {"latent_channels": 4}, "vae"),
        ("text_encoder", {"hidden_size": 64}, "."),
    ],
)
def test_a_wrongly_shaped_base_is_refused(
    tmp_path: Path, part: str, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint) as caught:
        load_base(altered(tmp_path, part, **changes), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_base_without_weights_or_folder_is_refused(tmp_path: Path) -> None:
    found = altered(tmp_path, "unet")
    (tmp_path / "base/unet/diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "base/unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="can't be loaded"):
        load_base(found, device="cpu")
    with pytest.raises(ModelError, match="does not exist"):
        load_base(entry(path="nowhere"), device="cpu")


def test_a_resolution_that_the_unet_cannot_halve_is_refused() -> None:
    with pytest.raises(ModelError, match="no multiple of 16"):
        load_base(entry(resolution=72), device="cpu")
