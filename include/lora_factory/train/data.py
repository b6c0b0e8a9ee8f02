"""A dataset artifact → latents and text encodings in memory, through the cache on disk.

Pictures are grouped into aspect buckets: shapes of about ``plan.resolution``² pixels, so that a
wide picture isn't cut to a square (as kohya's and NovelAI's trainers do). Entries are keyed by
content: bytes of the image or caption, hash of the very encoder, shape and crop, precision, and
this code's version; an edited image is encoded anew and nothing else is, and bases that share a
VAE share its latents.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.records import DatasetRecord, read_jsonl
from lora_factory.errors import ArtifactError
from lora_factory.imaging.decode import FORMATS, ImageRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lora_factory.contracts.stage import StageContext
    from lora_factory.contracts.training import TrainPlan
    from lora_factory.diffusion.base import DiffusionBase, Text
    from lora_factory.train.cache import EncodingCache

log = logging.getLogger(__name__)
CACHE_VERSION = 2
MAX_ASPECT = 2.0
"""Of a bucket; a longer picture is cut to it."""
ZOOM = 0.875
"""Side of a further crop, against the whole picture's."""
SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
CORNERS = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
"""Where crop k lies, as shares of the room that there is (left, top)."""


class Shape(NamedTuple):
    """Of a bucket, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Bucket:
    """The pictures of a split that have one shape.

    ``rows``: their numbers in the split; ``mean`` and ``std``: crops×flips×n×c×h×w, the latent
    posterior (flip 0 upright, 1 mirrored where the plan mirrors); ``sizes``: crops×flips×n×6,
    see :meth:`DiffusionBase.predict`.
    """

    shape: Shape
    rows: tuple[int, ...]
    mean: Tensor
    std: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Split:
    """One split, encoded, in the machine's memory.

    ``text``: output name → variants×n×tokens×d (or variants×n×d), variant 0 the caption as it
    is; ``empty``: the same of the empty prompt, 1×…; ``files``: the n image files, for messages;
    ``cut_captions``: captions that don't fit the text encoder whole.
    """

    buckets: tuple[Bucket, ...]
    text: Text
    empty: Text
    files: tuple[str, ...]
    cut_captions: int = 0

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shapes(self) -> dict[str, int]:
        """``width×height`` → images."""
        return {f"{b.shape.width}×{b.shape.height}": len(b) for b in self.buckets}


def load_split(
    split: str, plan: TrainPlan, base: DiffusionBase, ctx: StageContext, cache: EncodingCache
) -> Split | None:
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
    files = [folder / record.file_name for record in records]
    captions = [record.text for record in records]
    cut = base.overlong(captions)
    if cut:
        log.warning(
            "%d of %d captions are longer than the text encoder reads; their ends are cut "
            "(the first: %s)",
            len(cut),
            len(captions),
            files[cut[0]].name,
        )
    return Split(
        tuple(_load_images(split, files, plan, base, ctx, cache)),
        _load_text(split, _variants(captions, plan.options.tag_shuffles), base, ctx, cache),
        _load_empty(split, base, cache),
        tuple(record.file_name for record in records),
        len(cut),
    )


# -- images


def _load_images(
    split: str,
    files: Sequence[Path],
    plan: TrainPlan,
    base: DiffusionBase,
    ctx: StageContext,
    cache: EncodingCache,
) -> Iterator[Bucket]:
    """The split's buckets, the fullest first."""
    import torch

    shapes = [bucket_shape(_size(file), plan.resolution, base.side_multiple) for file in files]
    progress = Progress(f"latents {split}", len(files), "images")
    places = sorted(set(shapes), key=lambda shape: (-shapes.count(shape), shape))
    for shape in places:
        rows = [row for row, found in enumerate(shapes) if found == shape]
        shared = "|".join(
            map(
                str, (base.image_encoder_hash, *shape, plan.options.crops, plan.flip, CACHE_VERSION)
            )
        )
        keys = [_key(_read(files[row]), shared) for row in rows]

        def encode(
            indices: list[int], rows: list[int] = rows, shape: Shape = shape
        ) -> list[dict[str, Tensor]]:
            ctx.check_stop()
            images = [_decoded(files[rows[index]]) for index in indices]
            return _encode_images(images, shape, plan, base)

        entries = cache.fill(keys, encode, progress)
        mean, std, sizes = (
            torch.stack([entry[name] for entry in entries], dim=2)
            for name in ("mean", "std", "sizes")
        )
        yield Bucket(shape, tuple(rows), mean, std, sizes)


def bucket_shape(size: tuple[int, int], resolution: int, multiple: int) -> Shape:
    """The shape for a picture of ``size`` (width, height).

    Sides are multiples of ``multiple``, the area is at most ``resolution``², and of those that
    use it up the one with the nearest aspect (by its logarithm) is chosen; a square one is
    always among them.
    """
    wanted = math.log(size[0] / size[1])
    shapes = {Shape(resolution, resolution)}
    for side in range(multiple, int(resolution * MAX_ASPECT) + 1, multiple):
        other = resolution**2 // side // multiple * multiple
        if other and max(side / other, other / side) <= MAX_ASPECT:
            shapes |= {Shape(side, other), Shape(other, side)}
    return min(
        sorted(shapes, key=lambda shape: -shape.width * shape.height),
        key=lambda shape: abs(math.log(shape.width / shape.height) - wanted),
    )


def _encode_images(
    images: Sequence[Image], shape: Shape, plan: TrainPlan, base: DiffusionBase
) -> list[dict[str, Tensor]]:
    """n pictures → each one's ``mean``, ``std`` (crops×flips×c×h×w), ``sizes`` (crops×flips×6)."""
    import torch
    from PIL import ImageOps

    means, stds, sizes = [], [], []
    for crop in range(plan.options.crops):
        cuts = [_cut(image, shape, crop) for image in images]
        for mirrored in (False, True)[: 1 + plan.flip]:
            pictures = [ImageOps.mirror(cut.image) if mirrored else cut.image for cut in cuts]
            mean, std = base.encode_images(pictures)
            means.append(mean.cpu())
            stds.append(std.cpu())
            sizes.append(torch.tensor([cut.sizes(mirrored=mirrored) for cut in cuts]))
    found = {"mean": torch.stack(means, 1), "std": torch.stack(stds, 1)}
    found["sizes"] = torch.stack(sizes, 1)
    return [
        {name: tensor[row].unflatten(0, (plan.options.crops, -1)) for name, tensor in found.items()}
        for row in range(len(images))
    ]


class _Cut(NamedTuple):
    """A picture cut and resized to a bucket's shape."""

    image: Image
    original: tuple[int, int]  # width, height
    scaled: tuple[float, float]  # width, height of the whole picture at the cut's scale
    corner: tuple[float, float]  # left, top in the scaled picture

    def sizes(self, *, mirrored: bool) -> tuple[float, ...]:
        """Original height and width, top and left, target height and width (SDXL, 2.2)."""
        left, top = self.corner
        if mirrored:
            left = self.scaled[0] - self.image.width - left
        width, height = self.original
        return (height, width, round(top), round(left), self.image.height, self.image.width)


def _cut(image: Image, shape: Shape, crop: int) -> _Cut:
    """Crop 0: as much as the shape lets in, centred; further ones: closer, in the corners."""
    from PIL import Image as PilImage
    from PIL import ImageOps

    width, height = image.size
    scale = min(width / shape.width, height / shape.height) * (ZOOM if crop else 1.0)
    across, down = shape.width * scale, shape.height * scale
    left, top = (width - across) * CORNERS[crop][0], (height - down) * CORNERS[crop][1]
    if crop:
        box = (left, top, left + across, top + down)
        made = image.resize(shape, PilImage.Resampling.LANCZOS, box=box)
    else:
        made = ImageOps.fit(image, shape, PilImage.Resampling.LANCZOS)
    return _Cut(made, image.size, (width / scale, height / scale), (left / scale, top / scale))


def _size(file: Path) -> tuple[int, int]:
    """Width and height, upright as :func:`decode` gives it; from the header where that will do."""
    from PIL import ExifTags
    from PIL import Image as PilImage

    try:
        with PilImage.open(io.BytesIO(_read(file)), formats=FORMATS) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
            return (height, width) if turned else (width, height)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, PilImage.DecompressionBombError):
        return _decoded(file).size  # which says what is wrong, if anything but the header is


def _decoded(file: Path) -> Image:
    try:
        return decode(_read(file))
    except ImageRejected as err:
        msg = f"dataset image {file} can't be decoded ({err.reason}); label it again"
        raise ArtifactError(msg) from err


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        msg = f"dataset image {file} is missing; label it again"
        raise ArtifactError(msg) from err


# -- captions


def _variants(captions: Sequence[str], shuffles: int) -> list[list[str]]:
    """The captions, and as often with the tags (parts between commas) after the first shuffled.

    A caption's n-th order depends on the caption alone.
    """
    found = [list(captions)]
    for number in range(1, shuffles + 1):
        shuffled = []
        for caption in captions:
            first, *rest = (tag.strip() for tag in caption.split(","))
            random.Random(f"{number}|{caption}").shuffle(rest)  # noqa: S311 - no secret
            shuffled.append(", ".join((first, *rest)))
        found.append(shuffled)
    return found


def _load_text(
    split: str,
    variants: Sequence[Sequence[str]],
    base: DiffusionBase,
    ctx: StageContext,
    cache: EncodingCache,
) -> dict[str, Tensor]:
    """Output name → variants×n×tokens×d or variants×n×d."""
    captions = [caption for variant in variants for caption in variant]
    shared = f"{base.text_encoder_hash}|{base.dtype}|{CACHE_VERSION}"
    keys = [_key(caption.encode(), shared) for caption in captions]

    def encode(indices: list[int]) -> list[dict[str, Tensor]]:
        ctx.check_stop()
        return _encode_captions([captions[index] for index in indices], base)

    entries = cache.fill(keys, encode, Progress(f"text {split}", len(captions), "captions"))
    rows = _rows(entries)
    return {name: rows[name].unflatten(0, (len(variants), -1)) for name in rows}


def _load_empty(split: str, base: DiffusionBase, cache: EncodingCache) -> dict[str, Tensor]:
    """Output name → 1×tokens×d or 1×d."""
    shared = f"{base.text_encoder_hash}|{base.dtype}|{CACHE_VERSION}"
    progress = Progress(f"text {split}", 1, "empty captions")
    return _rows(cache.fill([_key(b"", shared)], lambda _: _encode_captions([""], base), progress))


def _encode_captions(captions: Sequence[str], base: DiffusionBase) -> list[dict[str, Tensor]]:
    """One entry a caption, in the denoiser's precision: it reads no finer one."""
    made = {name: out.to("cpu", base.dtype) for name, out in base.encode_texts(captions).items()}
    return [{name: out[row] for name, out in made.items()} for row in range(len(captions))]


def _rows(entries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    import torch

    return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}


def _key(data: bytes, shared: str) -> str:
    return hashlib.sha256(data + b"|" + shared.encode()).hexdigest()
