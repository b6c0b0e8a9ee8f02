"""A dataset artifact → latents and text encodings in memory, through a cache on disk.

The cache is keyed by content (image or caption bytes, base, resolution), so that an edited
image is encoded anew and nothing else is, and a killed run doesn't encode twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.records import DatasetRecord, read_jsonl
from lora_factory.errors import ArtifactError
from lora_factory.imaging.decode import ImageRejected, decode

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.contracts.stage import StageContext
    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger(__name__)
CACHE_VERSION = 1
CHUNK = 16  # items encoded between two looks at the stop signal


@dataclass(frozen=True)
class Split:
    """One split, encoded.

    ``mean`` and ``std``: 2×n×c×h×w (index 0 upright, 1 mirrored), the latent posterior;
    ``text``: n×tokens×dim; ``files``: the n image files, for messages.
    """

    mean: Tensor
    std: Tensor
    text: Tensor
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


class TensorCache:
    """Content key → tensor, in safetensors files of a folder; damaged files are dropped."""

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._held: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                self._held |= load_file(file)
            except (SafetensorError, OSError):
                log.warning("cache file %s is damaged; encoding its items again", file.name)
                file.unlink()

    def fill(
        self, keys: Sequence[str], encode: Callable[[list[int]], Tensor], progress: Progress
    ) -> Tensor:
        """Stack the tensors of ``keys``; ``encode`` makes those of the indices it is given."""
        import torch
        from safetensors.torch import save_file

        lacking = [index for index, key in enumerate(keys) if key not in self._held]
        if len(lacking) < len(keys):
            progress.advance(len(keys) - len(lacking), "from the cache")
        for start in range(0, len(lacking), CHUNK):
            part = lacking[start : start + CHUNK]
            made = encode(part).float().cpu()
            named = {keys[index]: made[row].clone() for row, index in enumerate(part)}
            name = hashlib.sha256("".join(named).encode()).hexdigest()[:24]
            temporary = self._folder / f"{name}.part"
            save_file(named, temporary)
            temporary.replace(self._folder / f"{name}.safetensors")
            self._held |= named
            progress.advance(len(part))
        return torch.stack([self._held[key] for key in keys])


def load_split(split: str, plan: TrainPlan, base: DiffusionBase, ctx: StageContext) -> Split | None:
    """Read and encode ``train`` or ``validation``; None when the split is empty.

    Raises:
        ArtifactError: a file is missing or can't be read; names it.
        Interrupted: asked to stop; what is encoded stays cached.
    """
    folder = ctx.inputs["dataset"].path / split
    metadata = folder / "metadata.jsonl"
    try:
        records = list(read_jsonl(metadata, DatasetRecord)) if metadata.is_file() else []
    except ValueError as err:
        msg = f"dataset file {metadata} can't be read; label it again"
        raise ArtifactError(msg) from err
    if not records:
        return None
    cache = TensorCache(ctx.scratch / "cache")
    files = [folder / record.file_name for record in records]
    shared = f"{plan.base_revision}|{CACHE_VERSION}"

    def encode_images(indices: list[int]) -> Tensor:
        return _encode_images([files[index] for index in indices], plan.resolution, base, ctx)

    def encode_captions(indices: list[int]) -> Tensor:
        ctx.check_stop()
        return base.encode_prompts([records[index].text for index in indices])

    image_keys = [_key(_read(file), f"{shared}|{plan.resolution}") for file in files]
    text_keys = [_key(record.text.encode(), f"{shared}|text") for record in records]
    latents = cache.fill(
        image_keys, encode_images, Progress(f"latents {split}", len(files), "images")
    )
    text = cache.fill(text_keys, encode_captions, Progress(f"text {split}", len(files), "captions"))
    mean, std = latents.unbind(1)  # n×2(mean, std)×2(upright, mirrored)×c×h×w
    return Split(
        mean.transpose(0, 1).to(base.device),
        std.transpose(0, 1).to(base.device),
        text.to(base.device),
        tuple(record.file_name for record in records),
    )


def _encode_images(
    files: Sequence[Path], resolution: int, base: DiffusionBase, ctx: StageContext
) -> Tensor:
    """n files → n×2(mean, std)×2(upright, mirrored)×c×h×w."""
    import torch
    from PIL import ImageOps

    ctx.check_stop()
    images = []
    for file in files:
        try:
            images.append(decode(_read(file)))
        except ImageRejected as err:
            msg = f"dataset image {file} can't be decoded ({err.reason}); label it again"
            raise ArtifactError(msg) from err
    upright = base.encode_images(images, resolution)
    mirrored = base.encode_images([ImageOps.mirror(image) for image in images], resolution)
    pairs = [torch.stack(both, dim=1) for both in zip(upright, mirrored, strict=True)]
    return torch.stack(pairs, dim=1)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        msg = f"dataset image {file} is missing; label it again"
        raise ArtifactError(msg) from err


def _key(data: bytes, shared: str) -> str:
    return hashlib.sha256(data + b"|" + shared.encode()).hexdigest()
