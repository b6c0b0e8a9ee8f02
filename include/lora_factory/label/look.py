"""One pass over the pictures: embeddings, fingerprints, tone. Kept in scratch by chunk."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.records import CleanRecord
from lora_factory.imaging.decode import ImageRejected, decode
from lora_factory.imaging.hashes import Fingerprints, perceptual_hash, thumbnail
from lora_factory.label.taxonomy import Tone

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.contracts.stage import StageContext
    from lora_factory.models.roles import ImageTextScorer, Vectors

log = logging.getLogger(__name__)
CHUNK = 128
MAX_CHROMA = 12
"""Largest minus smallest channel, of 255: below it a pixel has no colour to the eye."""
EXTREME = 48
"""Distance from black or white, of 255."""


@dataclass(frozen=True)
class Looks:
    """What was seen of n pictures; ``vectors`` n×d, unit rows."""

    vectors: Vectors
    prints: Fingerprints
    tones: tuple[Tone, ...]


def tone_of(image: Image) -> Tone:
    """``bilevel`` (black and white), ``grey`` (no colour) or ``colour``, by counting pixels.

    At most 1 pixel in 50 may have colour; of a bilevel picture 7 in 10 are nearly black or
    white and at least 1 in 100 of each (the rest are smoothed edges).
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16).reshape(-1, 3)
    chroma = pixels.max(axis=1) - pixels.min(axis=1)
    if np.mean(chroma > MAX_CHROMA) > 0.02:
        return "colour"
    light = pixels.mean(axis=1)
    black, white = np.mean(light <= EXTREME), np.mean(light >= 255 - EXTREME)
    return "bilevel" if black + white >= 0.7 and min(black, white) >= 0.01 else "grey"


def look(
    records: Sequence[CleanRecord], folder: Path, scorer: ImageTextScorer, ctx: StageContext
) -> tuple[Looks, dict[str, str]]:
    """Look at every picture once; a retry goes on with the chunk it was killed in.

    Args:
        records: n images, each with its own sha256.
        folder: of the clean artifact, which their ``file_name`` is relative to.
        scorer: embeds.
        ctx: its ``scratch`` keeps finished chunks.

    Returns:
        The looks of those that could be decoded, in order, and sha256 → reason of the others.

    Raises:
        Interrupted: asked to stop.
    """
    progress = Progress("label", len(records), "images")
    parts = []
    for start in range(0, len(records), CHUNK):
        ctx.check_stop()
        chunk = records[start : start + CHUNK]
        file = ctx.scratch / f"looks-{start:08d}.npz"
        part = _load(file)
        if part is None:
            part = _look(chunk, folder, scorer)
            _save(file, part)
        parts.append(part)
        progress.advance(len(chunk))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reasons = dict(zip(whole["lost"].tolist(), whole["reasons"].tolist(), strict=True))
    prints = Fingerprints.stack(whole["hashes"].tolist(), list(whole["thumbs"]))
    return Looks(whole["vectors"], prints, tuple(whole["tones"].tolist())), reasons


def _look(
    chunk: Sequence[CleanRecord], folder: Path, scorer: ImageTextScorer
) -> dict[str, NDArray[Any]]:
    images, lost, reasons = [], [], []
    for record in chunk:
        try:
            images.append(decode((folder / record.file_name).read_bytes()))
        except ImageRejected as err:
            lost.append(record.sha256)
            reasons.append(str(err.reason))
        except OSError:
            lost.append(record.sha256)
            reasons.append("missing_file")
    return {
        "vectors": scorer.embed_images(images),
        "hashes": np.array([perceptual_hash(image) for image in images], dtype="U64"),
        "thumbs": np.array([thumbnail(image) for image in images], np.uint8).reshape(-1, 768),
        "tones": np.array([tone_of(image) for image in images], dtype="U8"),
        "lost": np.array(lost, dtype="U64"),
        "reasons": np.array(reasons, dtype="U32"),
    }


def _save(file: Path, part: dict[str, NDArray[Any]]) -> None:
    draft = file.with_suffix(".part.npz")
    with draft.open("wb") as out:
        np.savez(out, **part)  # type: ignore[arg-type]  # numpy's stub takes ** for allow_pickle
    draft.replace(file)


def _load(file: Path) -> dict[str, NDArray[Any]] | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        log.warning("%s is damaged; its images are looked at again", file.name)
        return None
