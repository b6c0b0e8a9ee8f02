"""What tuning measures: the dataset's variety, and what a training step costs here."""

from __future__ import annotations

import gc
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.records import DatasetInfo, DatasetRecord, Domain, read_jsonl
from lora_factory.diffusion.objective import autocast, best_precision, denoising_loss
from lora_factory.errors import ArtifactError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.models.roles import TextEmbedder, Vectors

log = logging.getLogger(__name__)
TIMED_STEPS = 2  # after one that warms up; the faster of the two counts


@dataclass(frozen=True)
class DatasetMeasures:
    """The article's dataset metadata (3.1): what its formulas read."""

    size: int
    semantic_diversity: float
    visual_variance: float
    domain: Domain
    resolution: int


@dataclass(frozen=True)
class StepCost:
    """What a real training step costs on this machine."""

    device: str
    memory_gb: float
    batch_size: int
    seconds_per_image: float
    peak_gb: float  # accelerator memory at that batch; 0 where it isn't counted


def spread(vectors: Vectors) -> float:
    """1 − mean cosine over pairs of distinct rows, clipped to [0, 1].

    Args:
        vectors: n×d, rows of unit length.

    Returns:
        0 when all rows point the same way (or n < 2), 1 when they are orthogonal on average.
        For unit vectors this equals the trace of their unbiased covariance, hence both
        "diversity" of captions and "variance" of images.
    """
    import numpy as np

    n = len(vectors)
    if n < 2:
        return 0.0
    total = vectors.astype(np.float64).sum(axis=0)
    own = np.square(vectors, dtype=np.float64).sum()
    mean_cosine = (total @ total - own) / (n * (n - 1))
    return float(np.clip(1.0 - mean_cosine, 0.0, 1.0))


def measure_dataset(folder: Path, embedder: TextEmbedder) -> DatasetMeasures:
    """Measure a dataset artifact's training part.

    Captions are compared without trigger and style words (``subject``), which all share.
    Vectors come from ``embeddings.npz`` (``image``; ``text`` where there), else captions
    are embedded by ``embedder``.

    Raises:
        ArtifactError: a file is missing or lacks an image of the training part.
    """
    try:
        info = DatasetInfo.model_validate_json((folder / "dataset.json").read_bytes())
        records = list(read_jsonl(folder / "train" / "metadata.jsonl", DatasetRecord))
        arrays = _load_arrays(folder / "embeddings.npz")
    except (OSError, ValueError) as err:
        msg = f"dataset {folder} can't be read: {str(err).splitlines()[0]}; label it again"
        raise ArtifactError(msg) from err
    rows = {name: row for row, name in enumerate(arrays["sha256"].tolist())}
    lacking = [record.sha256 for record in records if record.sha256 not in rows]
    if lacking or not records:
        what = f"embeddings.npz lacks {lacking[0]}" if lacking else "no training image"
        msg = f"dataset {folder}: {what}; label it again"
        raise ArtifactError(msg)
    order = [rows[record.sha256] for record in records]
    if "text" in arrays:
        text = arrays["text"][order]
    else:
        text = embedder.encode([record.subject for record in records])
    return DatasetMeasures(
        size=len(records),
        semantic_diversity=spread(text),
        visual_variance=spread(arrays["image"][order]),
        domain=info.domain,
        resolution=info.resolution,
    )


def _load_arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    with np.load(file, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    for name in ("sha256", "image"):
        if name not in arrays or len(arrays[name]) != len(arrays.get("sha256", ())):
            msg = f"{file.name} has no usable array {name!r}"
            raise ValueError(msg)
    return arrays


def measure_step(
    base: DiffusionBase, rank: int, targets: Sequence[str], batch_size: int
) -> StepCost:
    """Time real LoRA training steps on random latents; halve the batch until it fits.

    Raises:
        ModelError: not even one image fits into the accelerator's memory, or no layer of
            the base matches ``targets``.
    """
    import torch

    batch = batch_size
    while True:
        try:
            seconds, peak = _time_steps(base, rank, targets, batch)
        except torch.cuda.OutOfMemoryError as err:
            if batch == 1:
                msg = f"base {base.entry.name!r} doesn't fit this accelerator even at batch 1"
                raise ModelError(msg) from err
            log.info("batch %d doesn't fit the accelerator's memory; trying %d", batch, batch // 2)
            batch //= 2
        else:
            return StepCost(base.device, memory_gb(base.device), batch, seconds / batch, peak)
        finally:
            base.drop_adapter("timing")
            gc.collect()
            if base.device == "cuda":
                torch.cuda.empty_cache()


def _time_steps(
    base: DiffusionBase, rank: int, targets: Sequence[str], batch: int
) -> tuple[float, float]:
    """Seconds of the fastest step, and peak accelerator memory in GB."""
    import torch
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    size = base.entry.resolution
    latents, _ = base.encode_images([Image.new("RGB", (size, size))])
    latents = latents.expand(batch, -1, -1, -1)
    text = base.encode_texts([""] * batch)
    parameters = base.add_adapter("timing", rank, float(rank), targets)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        noise = torch.randn(latents.shape, generator=generator).to(base.device)
        steps = base.timesteps(torch.rand(batch, generator=generator))
        with autocast(base.device, best_precision(base.device)):
            losses = denoising_loss(base, latents, text, noise, steps.to(base.device))
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if base.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if base.device == "cuda" else 0.0
    return min(seconds[1:]), peak


def memory_gb(device: str) -> float:
    """Memory of the accelerator, or of the machine where there is none, GiB."""
    import torch

    if device == "cuda":
        return float(torch.cuda.mem_get_info()[1] / 2**30)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
