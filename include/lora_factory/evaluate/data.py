"""The dataset as evaluation sees it: real images to anchor on, training images to compare."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl
from lora_factory.errors import DataError
from lora_factory.evaluate.prompts import words_of
from lora_factory.guard.copying import CopyDetector, perceptual_hashes
from lora_factory.imaging.decode import ImageRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.models.roles import ImageTextScorer, Vectors

log = logging.getLogger(__name__)
FEWEST_ANCHORS = 8
"""Validation images under which training images help as anchors (the report says so)."""
FEWEST_REAL = 4
CHUNK = 64
MAX_SIDE = 1024
"""Pixels."""


@dataclass(frozen=True)
class StyleData:
    """Real images of a style, ready to be compared with.

    ``anchors`` are the records that prompts are made of and scores are anchored on; ``real``
    and ``text`` (m×d) their images and subjects in the scorer's space.
    """

    info: DatasetInfo
    anchors: tuple[DatasetRecord, ...]
    real: Vectors
    text: Vectors
    train_files: tuple[Path, ...]
    copies: CopyDetector
    shown: frozenset[str]
    """Words of everything the dataset shows (``prompts.words_of``)."""
    note: str = ""
    records: tuple[DatasetRecord, ...] = ()
    """All of the dataset, training ones first; ``images`` are their embeddings, row by row."""
    images: Vectors | None = None


def load_style(
    folder: Path, scorer: ImageTextScorer, *, stored: bool, check_stop: Callable[[], None]
) -> StyleData:
    """Read a dataset artifact.

    Args:
        folder: of the dataset.
        scorer: fills in what ``embeddings.npz`` lacks.
        stored: whether ``embeddings.npz`` was made by this very scorer.
        check_stop: called between chunks of work.

    Raises:
        DataError: a file is missing or unreadable, or there are too few images.
    """
    info, train, held = _records(folder)
    if len(train) < 2 or len(train) + len(held) < FEWEST_REAL:
        msg = (
            f"dataset holds {len(train)} training and {len(held)} validation images; "
            f"evaluation needs {FEWEST_REAL} to anchor its scores: add images"
        )
        raise DataError(msg)
    known = _stored_vectors(folder) if stored else {}
    files = {
        part: tuple(folder / part / Path(record.file_name).name for record in records)
        for part, records in (("train", train), ("validation", held))
    }
    seen = {}
    for part, records in (("train", train), ("validation", held)):
        seen[part] = _look(files[part], records, known, scorer, check_stop)
    anchors, real, note = tuple(held), seen["validation"][0], ""
    if len(held) < FEWEST_ANCHORS:
        anchors, real = (*held, *train), np.concatenate([real, seen["train"][0]])
        note = (
            f"only {len(held)} validation images: training images are anchors too (each left "
            "out of what it is compared with), which flatters a LoRA that repeats them"
        )
        log.warning("%s", note)
    text = scorer.embed_texts([record.subject or record.text for record in anchors])
    detector = CopyDetector(*seen["train"], *seen["validation"])
    shown = words_of(info, [*train, *held])
    return StyleData(
        *(info, anchors, real, text, files["train"], detector, shown, note),
        records=(*train, *held),
        images=np.concatenate([seen["train"][0], seen["validation"][0]]),
    )


def open_image(file: Path) -> Image:
    """Decode one picture of the dataset, shrunk to ``MAX_SIDE``.

    Raises:
        DataError: it can't be read, or has more pixels than ``imaging.decode`` allows.
    """
    try:
        image = decode(file.read_bytes())
    except (ImageRejected, OSError) as err:
        msg = f"dataset image {file.name} can't be read: {err}; make the dataset anew"
        raise DataError(msg) from err
    image.thumbnail((MAX_SIDE, MAX_SIDE))  # no scorer looks closer; many are held at once
    return image


def _records(folder: Path) -> tuple[DatasetInfo, list[DatasetRecord], list[DatasetRecord]]:
    try:
        info = DatasetInfo.model_validate_json((folder / "dataset.json").read_bytes())
        parts = []
        for part in ("train", "validation"):
            file = folder / part / "metadata.jsonl"
            absent = part == "validation" and not file.exists()
            parts.append([] if absent else list(read_jsonl(file, DatasetRecord)))
    except (OSError, ValidationError, UnicodeDecodeError) as err:
        reason = str(err).splitlines()[0]
        msg = f"dataset at {folder} can't be read: {reason}; make the dataset anew"
        raise DataError(msg) from err
    return info, parts[0], parts[1]


def _stored_vectors(folder: Path) -> dict[str, Vectors]:
    """sha256 → embedding; empty (with a warning) when the file can't be used."""
    try:
        with np.load(folder / "embeddings.npz", allow_pickle=False) as data:
            return dict(zip(data["sha256"].tolist(), data["image"], strict=True))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, json.JSONDecodeError) as err:
        log.warning("embeddings.npz is not usable (%s); images are embedded again", err)
        return {}


def _look(
    files: Sequence[Path],
    records: Sequence[DatasetRecord],
    known: dict[str, Vectors],
    scorer: ImageTextScorer,
    check_stop: Callable[[], None],
) -> tuple[Vectors, np.ndarray]:
    """Embeddings (stored ones where all are known) and perceptual hashes of images."""
    use_known = all(record.sha256 in known for record in records)
    vectors = [scorer.embed_images([])]
    hashes = [perceptual_hashes([])]
    for start in _chunks(len(files)):
        check_stop()
        images = [open_image(file) for file in files[start : start + CHUNK]]
        hashes.append(perceptual_hashes(images))
        vectors.append(
            np.stack([known[record.sha256] for record in records[start : start + CHUNK]])
            if use_known
            else scorer.embed_images(images)
        )
    return np.concatenate(vectors).astype(np.float32), np.concatenate(hashes)


def _chunks(count: int) -> Iterator[int]:
    return iter(range(0, count, CHUNK))
