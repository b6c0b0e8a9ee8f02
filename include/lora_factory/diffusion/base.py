"""What every family of base models can do, whatever its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch import dtype as torch_dtype
    from torch.nn import Module, Parameter

    from lora_factory.contracts.optimise import BuildInfo
    from lora_factory.diffusion.bank import Worn
    from lora_factory.diffusion.lora_file import LoraFile
    from lora_factory.models.profiles import BaseEntry

# Called after each denoising step with (steps done, steps in all); False cancels.
OnStep = Callable[[int, int], bool]
Text: TypeAlias = "Mapping[str, Tensor]"
"""What the text encoders say of n prompts: each output's name → n×tokens×d or (pooled) n×d."""
# n prompts, and what the text encoders say of them → the same, changed (``guard.bias.projection``).
TextProjection = Callable[[Sequence[str], Text], Text]


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
    dtype: torch_dtype
    """Precision of the weights, and the finest that the denoiser reads a text in."""

    def encode_texts(self, prompts: Sequence[str]) -> Text:
        """What each text encoder says of n prompts, float32, on ``device``.

        A prompt is cut where its tokens no longer fit the encoder, as :meth:`generate` does.
        """

    def overlong(self, prompts: Sequence[str]) -> list[int]:
        """Indices of the prompts that :meth:`encode_texts` cuts."""

    def encode_images(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """n RGB images of one size → mean and standard deviation of the latent posterior.

        Width and height are multiples of ``side_multiple``.
        Both tensors: n×channels×h×w, float32, on ``device``, in the denoiser's scale, so
        that ``mean + std * noise`` is a draw to train on.
        """

    def release_encoders(self) -> None:
        """Let text encoders and VAE leave memory; they come back when they are asked for."""

    @property
    def side_multiple(self) -> int:
        """Pixels that the width and the height of a picture are multiples of."""

    @property
    def image_encoder_hash(self) -> str:
        """Changes with anything that decides :meth:`encode_images`; bases may share it."""

    @property
    def text_encoder_hash(self) -> str:
        """Changes with anything that decides :meth:`encode_texts`; bases may share it."""

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
        rank_stabilized: bool = False,
    ) -> list[Parameter]:
        """Attach a fresh trainable LoRA (B zero: output unchanged) and make it active.

        ``targets`` are suffixes of layer names (linear or convolution). ``rank_stabilized``:
        strength alpha / √rank instead of alpha / rank. Returns its parameters, float32, each
        layer's lora_A and then its lora_B.

        Raises:
            ModelError: no layer matches, or the name is taken.
        """

    def set_dropout(self, name: str, share: float) -> None:
        """Drop a share of the inputs of an added adapter's layers from now on; 0: none."""

    @property
    def denoiser(self) -> Module:
        """What :meth:`predict` runs, a diffusers model, with its added adapters."""

    def read_adapter(self, file: Path) -> LoraFile:
        """Read and check a LoRA file without attaching it.

        Raises:
            ModelError: another format, another base, keys left over, NaN or Inf.
        """

    def copy_into_adapter(self, name: str, source: LoraFile) -> None:
        """Set an added adapter's weights, so that it acts as ``source`` does at strength 1.

        Raises:
            ModelError: ``source`` has other layers or higher ranks.
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

    def load_build(self, name: str, folder: Path) -> BuildInfo:
        """Load a build (``diffusion.builds``), to be used as an adapter of strength 1 is.

        Raises:
            ModelError: it is damaged, of another base or machine, or the name is taken.
            ConfigurationError: what runs it isn't installed.
        """

    def fused_denoiser(self, name: str) -> Module:
        """A copy of the denoiser with a loaded adapter in its weights, and nothing beside them.

        Raises:
            ModelError: no such adapter.
        """

    def denoiser_example(self) -> dict[str, Tensor]:
        """What the denoiser takes for two samples, by name (``builds.named_inputs``)."""

    @property
    def denoiser_bytes(self) -> int:
        """Of the denoiser's weights."""

    def save_adapter(self, name: str, file: Path, metadata: dict[str, str]) -> None:
        """Write a file that plain diffusers loads at the same strength (see ``lora_file``)."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents, and what the denoiser is trained to predict (epsilon or v)."""

    def loss_weights(self, timesteps: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR-γ weights (Hang et al. 2023, arXiv 2303.09556) for the base's target.

        n timesteps → n float32. epsilon: min(SNR, γ)/SNR; v: min(SNR, γ)/(SNR + 1).
        ``gamma`` None: ones.
        """

    def predict(
        self, latents: Tensor, timesteps: Tensor, text: Text, sizes: Tensor | None = None
    ) -> Tensor:
        """Run the denoiser: noised latents n×c×h×w, timesteps n, n prompts' text → n×c×h×w.

        ``sizes``, n×6 pixels, is what the picture was cut from: original height and width, top
        and left of the cut, height and width aimed at (SDXL's micro-conditioning; families
        without it ignore it). None: made at that size and not cut.
        """

    def timesteps(self, fractions: Tensor) -> Tensor:
        """n numbers in [0, 1), spread evenly → what the base calls noise levels spread so."""
