"""What every family of base models can do, whatever its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Parameter

    from lora_factory.diffusion.bank import Worn
    from lora_factory.diffusion.lora_file import LoraFile
    from lora_factory.models.profiles import BaseEntry

# Called after each denoising step with (steps done, steps in all); False cancels.
OnStep = Callable[[int, int], bool]
# n prompts, and each text encoder output's name → n×tokens×d or (pooled) n×d → the same, changed
# (``guard.bias.projection``).
TextProjection = Callable[[Sequence[str], "Mapping[str, Tensor]"], "Mapping[str, Tensor]"]


@dataclass(frozen=True)
class GenerationRequest:
    """One image to make."""

    prompt: str
    seed: int
    negative_prompt: str = ""


class DiffusionBase(Protocol):
    """A text-to-image latent diffusion model whose denoiser can carry LoRA adapters.

    Not thread-safe: one owner at a time, since the active adapter is state.
    """

    entry: BaseEntry
    device: str

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """n prompts (cut at the model's limit) → n×tokens×dim, float32, on ``device``."""

    def encode_texts(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """What each text encoder says of n prompts, by the output's name.

        n×tokens×dim, or n×dim for a pooled output; what a ``TextProjection`` gets.
        """

    def encode_images(self, images: Sequence[Image], resolution: int) -> tuple[Tensor, Tensor]:
        """n RGB images → mean and standard deviation of the latent posterior.

        Images are cropped to a centred square and resized to ``resolution`` pixels.
        Both tensors: n×channels×h×w, float32, on ``device``, in the denoiser's scale, so
        that ``mean + std * noise`` is a draw to train on.
        """

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        steps: int,
        guidance: float,
        batch_size: int = 16,
        on_step: OnStep | None = None,
        text_projection: TextProjection | None = None,
        adapters: Sequence[Worn | None] | None = None,
    ) -> list[Image]:
        """Make one image a request, in order, with the active adapter.

        The starting noise depends on a request's seed alone (a CPU generator each), not on
        the batch it is in nor on the device. ``text_projection`` changes what the text encoders
        say of the prompts (not of the negative ones). ``adapters``, one a request, each loaded
        from a file: other adapters in one batch; None among them: the base alone. Which one is
        active is then undecided: call :meth:`use_adapter` before going on without them.

        Raises:
            Interrupted: ``on_step`` returned False.
            ModelError: one of ``adapters`` isn't loaded.
        """

    def add_adapter(
        self,
        name: str,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        *,
        seed: int = 0,
    ) -> list[Parameter]:
        """Attach a fresh trainable LoRA (B zero: output unchanged) and make it active.

        ``targets`` are suffixes of layer names (linear or convolution). Returns its
        parameters, float32, in a fixed order.

        Raises:
            ModelError: no layer matches, or the name is taken.
        """

    def read_adapter(self, file: Path) -> LoraFile:
        """Read and check a LoRA file without attaching it.

        Raises:
            ModelError: another format, another base, keys left over, NaN or Inf.
        """

    def copy_into_adapter(self, name: str, source: LoraFile) -> None:
        """Set an added adapter's weights, so that it acts as ``source`` does at strength 1.

        Raises:
            ModelError: ``source`` has other layers or ranks.
        """

    def load_adapter(self, name: str, file: Path) -> None:
        """Attach the LoRA in a safetensors file; doesn't change which adapter is active.

        Raises:
            ModelError: as :meth:`read_adapter`, or the name is taken.
        """

    def adapter_size(self, name: str) -> int:
        """Bytes of memory that a loaded adapter takes."""

    def use_adapter(self, name: str | None, strength: float = 1.0) -> None:
        """Make one adapter active at a strength; None: the base alone.

        Raises:
            ModelError: no such adapter.
        """

    def fuse_adapter(self, name: str, strength: float = 1.0) -> None:
        """Add a loaded adapter to the weights themselves: it then costs no time in each step.

        Raises:
            ModelError: no such adapter, or another one is fused.
        """

    def unfuse_adapter(self) -> None:
        """Take a fused adapter out of the weights, bit for bit; the base alone is then active."""

    def drop_adapter(self, name: str) -> None:
        """Detach an adapter and free its memory; unknown names are ignored."""

    def save_adapter(self, name: str, file: Path, metadata: dict[str, str]) -> None:
        """Write a file that plain diffusers loads at the same strength (see ``lora_file``)."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents, and what the denoiser is trained to predict (epsilon or v)."""

    def loss_weights(self, timesteps: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR-γ weights (Hang et al. 2023, arXiv 2303.09556) for the base's target.

        n timesteps → n float32. epsilon: min(SNR, γ)/SNR; v: min(SNR, γ)/(SNR + 1).
        ``gamma`` None: ones.
        """

    def predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Run the denoiser: noised latents n×c×h×w, timesteps n, text n×tokens×dim → n×c×h×w."""

    @property
    def train_timesteps(self) -> int:
        """How many noise levels the base was trained on (timesteps are 0 … this − 1)."""
