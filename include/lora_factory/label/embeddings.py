"""Vectors of a dataset's items (article, 2.2 ``create_embedding``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.records import DatasetRecord

if TYPE_CHECKING:
    from lora_factory.models.roles import ImageTextScorer, Vectors


@dataclass(frozen=True)
class Embeddings:
    """Of n items: ``image`` and ``joint`` n×d in the scorer's space, ``text`` n×k in the text
    embedder's; float32, unit rows."""

    image: Vectors
    joint: Vectors
    text: Vectors


def create_embeddings(
    image: Vectors, subjects: Sequence[str], text: Vectors, scorer: ImageTextScorer
) -> Embeddings:
    """One vector an item: the unit mean of its picture and its subject in the joint space.

    The article takes the mean of a sentence model's vector and an image model's. Those spaces
    have nothing in common (not even a width), so such a mean is near neither, and its cosines
    mean nothing. A CLIP's two towers were trained into one space, where a mean lies between
    picture and words and its cosine with another item compares both.

    Args:
        image: n×d, unit rows, of the pictures in the scorer's space.
        subjects: n texts; an item without one is its picture alone.
        text: n×k, unit rows, of the subjects in the text embedder's space.
        scorer: embeds the subjects.
    """
    said = np.array([bool(subject) for subject in subjects])[:, None]
    both = image + said * scorer.embed_texts(subjects)
    length = np.linalg.norm(both, axis=1, keepdims=True)
    joint = np.where(length > 1e-6, both / np.maximum(length, 1e-6), image)
    return Embeddings(image, joint.astype(np.float32), text)


def write_embeddings(
    out: Path, records: Sequence[DatasetRecord], files: Sequence[str], found: Embeddings
) -> None:
    """Write the joint vectors with their index, and the parts they come from.

    ``embeddings.npy``: n×d, to be memory-mapped; ``embeddings.jsonl``: its rows in order
    (``row``, ``sha256``, ``file_name`` within the dataset); ``embeddings.npz``: ``sha256``,
    ``image``, ``text``, for later stages.

    Args:
        out: folder.
        records: of n items.
        files: n paths within the dataset.
        found: their vectors.
    """
    np.save(out / "embeddings.npy", np.asarray(found.joint, dtype=np.float32))
    with (out / "embeddings.jsonl").open("w", encoding="utf-8") as index:
        for row, (record, file) in enumerate(zip(records, files, strict=True)):
            line = {"row": row, "sha256": record.sha256, "file_name": file}
            index.write(json.dumps(line) + "\n")
    np.savez(
        out / "embeddings.npz",
        sha256=np.array([record.sha256 for record in records], dtype=str),
        image=np.asarray(found.image, dtype=np.float32),
        text=np.asarray(found.text, dtype=np.float32),
    )
