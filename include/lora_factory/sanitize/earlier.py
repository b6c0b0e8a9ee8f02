"""What an earlier run already made of the previous dataset's pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container

    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.models.roles import Vectors

SCORER = "image_text_scorer"


def earlier_vectors(
    previous: LocalArtifact | None, names: Container[str], revision: str | None
) -> dict[str, Vectors]:
    """sha256 → the picture's unit vector in the scorer's space, as the label stage stored it.

    None where the dataset was labelled with another revision of the scorer, or has no
    ``embeddings.npz``: such pictures are embedded again.

    Args:
        previous: the dataset.
        names: of the pictures that are wanted.
        revision: of the scorer now.
    """
    if previous is None or revision is None or previous.manifest.models.get(SCORER) != revision:
        return {}
    file = previous.path / "embeddings.npz"
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as stored:
        rows = np.asarray(stored["image"], dtype=np.float32)
        return {
            str(name): row
            for name, row in zip(stored["sha256"], rows, strict=True)
            if str(name) in names
        }
