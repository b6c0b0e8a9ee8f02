"""What an earlier run already made of the previous dataset's pictures.

``measures.npz`` of a clean artifact, which label hands on with the dataset, says what was measured
of each picture and by which versions; ``embeddings.npz`` of the dataset has its vector. Where both
are there and nothing that judges has changed, the picture is copied as it is: neither decoded nor
shown to a model again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.records import MEASURES_FILE

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lora_factory.contracts.specs import SanitizeRequest
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.imaging.hashes import Fingerprints
    from lora_factory.models.profiles import Profile
    from lora_factory.models.roles import Vectors

SCORER = "image_text_scorer"
JUDGES = ("content_filter", "text_detector?")
MEASURES = 1
"""Raise it where another verdict may come of the same picture: decoding, measures and their
limits, fingerprints, letterbox bars."""


@dataclass(frozen=True)
class Measured:
    """A picture that passed all checks of its own, as it lies in the dataset.

    ``hash``: 64 hex digits. ``thumb``: 768 uint8. ``writing``: share under text; None: nobody
    looked.
    """

    hash: str
    thumb: NDArray[np.uint8]
    sharpness: float
    width: int
    height: int
    writing: float | None

    def passes(self, spec: SanitizeRequest) -> bool:
        """Whether it needs no other look under this spec's limits."""
        shorter, longer = sorted((self.width, self.height))
        return (
            spec.min_side <= shorter <= spec.max_side
            and longer / shorter <= spec.max_aspect
            and (self.writing or 0.0) <= spec.max_text
        )


def made_by(profile: Profile) -> dict[str, str]:
    """Versions of what measures and judges a picture by itself."""
    return {"measures": str(MEASURES), **profile.revisions(JUDGES)}


def write_measures(
    file: Path,
    names: Collection[str],
    prints: Fingerprints,
    measured: NDArray[np.float64],
    made: Mapping[str, str],
) -> None:
    """Write what was measured of n pictures.

    Args:
        file: to be written.
        names: n sha256.
        prints: of the n pictures.
        measured: n×4: sharpness, width and height in pixels, share under text (NaN: not looked).
        made: :func:`made_by`.
    """
    np.savez(
        file,
        sha256=np.array(list(names), dtype="U64"),
        bits=prints.bits,
        thumbs=prints.thumbs,
        measured=measured,
        made=np.array(json.dumps(made, sort_keys=True)),
    )


def earlier_measures(
    previous: LocalArtifact | None, names: Container[str], made: Mapping[str, str]
) -> dict[str, Measured]:
    """sha256 → what was measured, of the wanted pictures; none where other versions did it."""
    file = None if previous is None else previous.path / MEASURES_FILE
    if file is None or not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as stored:
        if json.loads(str(stored["made"])) != made:
            return {}
        bits, thumbs, measured = stored["bits"], stored["thumbs"], stored["measured"]
        return {
            str(name): Measured(
                bits[row].tobytes().hex(),
                thumbs[row].copy(),  # a row of its own: the whole is not kept for it
                float(measured[row, 0]),
                int(measured[row, 1]),
                int(measured[row, 2]),
                None if np.isnan(measured[row, 3]) else float(measured[row, 3]),
            )
            for row, name in enumerate(stored["sha256"])
            if str(name) in names
        }


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
            str(name): row.copy()
            for name, row in zip(stored["sha256"], rows, strict=True)
            if str(name) in names
        }
