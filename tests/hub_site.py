"""A deployment with a profile of its own, and the hub it pulls from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hub_server import Hub, Repo
from lora_factory.contracts.settings import Settings
from lora_factory.models.lock import Lock, read_lock
from lora_factory.models.profiles import Profile, load_profile, lock_file
from lora_factory.models.pull import pull

CLIP, SD = "1" * 40, "2" * 40
TOML = """
[roles.image_text_scorer]
kind = "clip"
model = "org/clip"
revision = "main"

[bases.small]
family = "sd1"
model = "org/sd"
revision = "2222222222222222222222222222222222222222"
variant = "fp16"
domains = ["art"]
resolution = 64
learning_rate = 1e-3
max_rank = 4
steps = 2
guidance = 2.0
"""


def weights(number: int, size: int) -> bytes:
    """Bytes that differ with the number."""
    return bytes((number + i * 7) % 251 for i in range(1009)) * (size // 1009)


def repos() -> dict[str, Repo]:
    """Repositories with the names of real ones; what is in the files is nobody's business here."""
    clip = {
        "config.json": b'{"model_type": "clip"}',
        "tokenizer.json": b"{}" * 500,
        "model.safetensors": weights(1, 300_000),
        "pytorch_model.bin": b"pickle",
        "README.md": b"card",
    }
    sd = {"model_index.json": b"{}", "v1-5.ckpt": b"pickle", "tokenizer/vocab.json": b"{}"}
    sd |= {"scheduler/scheduler_config.json": b"{}", "safety_checker/model.safetensors": b"x" * 9}
    for number, (part, name) in enumerate((
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "model"),
    )):
        sd[f"{part}/config.json"] = b"{}"
        sd[f"{part}/{name}.safetensors"] = weights(10 + number, 90_000)
        sd[f"{part}/{name}.fp16.safetensors"] = weights(20 + number, 50_000)
        sd[f"{part}/pytorch_model.bin"] = b"pickle"
    return {"org/clip": Repo(CLIP, clip), "org/sd": Repo(SD, sd, licence="openrail")}


@dataclass
class Site:
    """A deployment that has a profile ``mine``, and its hub."""

    hub: Hub
    settings: Settings
    cache: Path

    def profile(self) -> Profile:
        """As it is now, with its lock."""
        return load_profile("mine", self.settings)

    def pull(self, **options: object) -> dict[str, str]:
        """Pull it; label → why not."""
        file = lock_file("mine", self.settings, write=True)
        return pull(self.profile(), file, **options)  # type: ignore[arg-type]

    def lock(self) -> Lock:
        """Its lock."""
        return read_lock(lock_file("mine", self.settings))

    def write(self, toml: str) -> None:
        """Change the profile."""
        folder = self.settings.profiles
        assert folder is not None
        (folder / "mine.toml").write_text(toml)
