"""Index of protected works that the operator supplies, and what comes close to them.

Made by ``python -m lora_factory protect FOLDER --out INDEX``, read from the folder
``LORA_FACTORY_PROTECTED``: ``works.json`` (:class:`IndexInfo`) and ``works-<digest>.npz``
(embeddings and perceptual hashes), which ``works.json`` names with its sha256. It serves the
scorer it was made with and no other: another revision's embeddings mean something else.

Each work is kept in several views, each of them also mirrored: as it is and without a rim of 6%
and 12% for the embedding, which hardly minds a crop; and for the hash, which does, also without
9% at each edge and at each corner. Two witnesses look at them, the embedding (cosine) and the
64-bit hash (Hamming distance), with cuts calibrated on originals as in
:mod:`lora_factory.guard.copying`. A picture repeats a work when

* the embedding is convinced (closer than 99% of originals) and the hash agrees (closer than
  half of them), or
* the hash is convinced and the embedding agrees (closer than a tenth of them: a change of
  colour moves an embedding far and a hash hardly at all), or
* the hash is within half of the distance that convinces it.

Measured with the embedded scorer on three icon sets (``flat-color-icons``, ``logos``,
``fluent-emoji-high-contrast``; 100 works, 100 originals to calibrate on, and 129, 400 and 300
more to judge): 3 of the 829 originals were taken for copies, and 7 that are the same drawing
under another name. Of 60 copies in each set every mirrored or grey one was found; resized
98–100%, JPEG 75 97–100%, JPEG 40 82–100%, darkened 67–98%, hue turned by 28° 32–100%, without
a rim of 5% 62–97% and of 10% 52–98%, without 10% at one edge 23–98%, at a corner 17–95% (the
lower end is always the flat set, whose icons differ by less than such a crop). A crop of 20% is
missed. It finds repetition, not style, and not a part of a work inside another picture.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import numpy as np
from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.errors import ConfigurationError, ModelError, SpecError
from lora_factory.guard.copying import PLAIN, Cuts, Nearest, hash_distances, perceptual_hashes
from lora_factory.guard.images import Finding

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.copyright import Policy
    from lora_factory.contracts.settings import Settings
    from lora_factory.guard.copying import Bits, Hashes
    from lora_factory.models.profiles import Profile
    from lora_factory.models.roles import ImageTextScorer, Vectors

log = logging.getLogger(__name__)
INFO = "works.json"
SCORER = "image_text_scorer"
PROTECTED_WORK = "protected_work"
RIMS = ((0.0, 0.0, 0.0, 0.0), (0.03, 0.03, 0.03, 0.03), (0.06, 0.06, 0.06, 0.06))
"""Views for the embedding: shares left out on the left, at the top, right, and bottom."""
CROPS = (
    *RIMS,
    *((0.09, 0.0, 0.0, 0.0), (0.0, 0.09, 0.0, 0.0), (0.0, 0.0, 0.09, 0.0), (0.0, 0.0, 0.0, 0.09)),
    *(
        (0.09, 0.09, 0.0, 0.0),
        (0.0, 0.09, 0.09, 0.0),
        (0.0, 0.0, 0.09, 0.09),
        (0.09, 0.0, 0.0, 0.09),
    ),
)
"""Views for the hash."""
AGREES = 10.0
"""Percentile of the originals' cosines at which the embedding agrees."""
FEWEST_ORIGINALS = 20
CHUNK = 64


@dataclass(frozen=True)
class Match(Nearest):
    """The protected work most like a picture (the one it repeats, if it does)."""

    work: str = ""
    """The work's name: its path in the operator's folder."""


class Work(Contract):
    """One protected work."""

    name: str = Field(description="Path in the operator's folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of its bytes")


class Skipped(Contract):
    """A file that gave no work, and why."""

    name: str
    reason: str = Field(description="not_an_image, corrupt, too_many_pixels, animated, uniform, …")


class IndexInfo(Contract):
    """``works.json``."""

    format: Literal[1] = 1
    scorer: str = Field(description="Resolved revision of the role image_text_scorer")
    data: str = Field(pattern=r"^works-[0-9a-f]{16}\.npz$")
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    works: tuple[Work, ...] = Field(min_length=1)
    skipped: tuple[Skipped, ...] = ()
    cosine: float = Field(ge=-1, le=1)
    cosine_agrees: float = Field(ge=-1.001, le=1.001)
    bits: int = Field(ge=0, le=64)
    bits_agrees: int = Field(ge=0, le=64)
    calibrated_on: int = Field(ge=FEWEST_ORIGINALS, description="Works and other originals")
    twins: int = Field(0, ge=0, description="Originals left out, since they repeat a work")
    plain_on_originals: float = Field(
        ge=0, le=1, description="Share of the originals that the plain 0.9 takes for copies"
    )

    @property
    def cuts(self) -> Cuts:
        """Where the witnesses are convinced and where they agree."""
        return Cuts(
            self.cosine, self.cosine_agrees, self.bits, self.bits_agrees, self.calibrated_on
        )


class ProtectedIndex:
    """Nearest protected work by embedding and hash.

    Exact: each picture is compared with every view of every work. Comfortable to some 50,000
    works (600 MB at 512 dimensions, tens of milliseconds a picture).

    Args:
        info: what ``works.json`` holds.
        vectors: n×6×d, rows of unit length: ``RIMS``, each mirrored after it.
        hashes: n×22×64: ``CROPS``, each mirrored after it.
    """

    def __init__(self, info: IndexInfo, vectors: Vectors, hashes: Hashes) -> None:
        self.info = info
        self.cuts = info.cuts
        self._vectors, self._hashes = vectors, hashes

    def __len__(self) -> int:
        return len(self.info.works)

    @classmethod
    def load(cls, folder: Path) -> ProtectedIndex:
        """Read an index.

        Raises:
            ConfigurationError: it is missing, damaged, or of another version.
        """
        try:
            info = IndexInfo.model_validate_json((folder / INFO).read_bytes())
            data = (folder / info.data).read_bytes()
        except (OSError, ValidationError) as err:
            raise _unusable(folder, str(err).splitlines()[0]) from err
        if hashlib.sha256(data).hexdigest() != info.data_sha256:
            raise _unusable(folder, f"{info.data} has another sha256 than {INFO} says")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                vectors, packed = arrays["vectors"], arrays["hashes"]
        except (ValueError, KeyError, zipfile.BadZipFile) as err:
            raise _unusable(folder, str(err).splitlines()[0]) from err
        count = len(info.works)
        shapes = (count, 2 * len(RIMS)), (count, 2 * len(CROPS), 8)
        if (vectors.shape[:2], packed.shape) != shapes:
            raise _unusable(folder, f"its arrays are not of {count} works in all their views")
        return cls(info, vectors.astype(np.float32), np.unpackbits(packed, axis=2).astype(bool))

    def nearest(self, vectors: Vectors, hashes: Hashes) -> list[Match]:
        """The work closest to each of k pictures.

        Args:
            vectors: k×d, the scorer's embeddings, rows of unit length.
            hashes: k×2×64, :func:`lora_factory.guard.copying.perceptual_hashes`.

        Raises:
            ModelError: the embeddings hold NaN or don't fit the index: nothing passes unseen.
        """
        if not np.isfinite(vectors).all() or vectors.shape[1:] != self._vectors.shape[2:]:
            msg = "the scorer's embeddings can't be compared with the index of protected works"
            raise ModelError(msg)
        found: list[Match] = []
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            views = compare(vectors[part], hashes[part], self._vectors, self._hashes)
            found += [self._judge(*row) for row in zip(*views, strict=True)]
        return found

    def look(self, images: Sequence[Image], scorer: ImageTextScorer) -> list[Match]:
        """:meth:`nearest` for RGB pictures that are not embedded yet."""
        if not images:
            return []
        return self.nearest(scorer.embed_images(images), perceptual_hashes(images))

    def _judge(self, similar: Vectors, distant: Bits) -> Match:
        cuts = self.cuts
        copies = (
            ((similar >= cuts.cosine) & (distant <= cuts.bits_agrees))
            | ((distant <= cuts.bits) & (similar >= cuts.cosine_agrees))
            | (distant <= cuts.bits // 2)
        )
        both = (similar >= cuts.cosine) & (distant <= cuts.bits)
        # A verbatim one before other copies, copies before the rest: cosines span at most 2.
        pick = int((similar + 2 * copies + 4 * both).argmax())
        return Match(
            index=pick,
            similarity=float(similar[pick]),
            distance=int(distant[pick]),
            copied=bool(copies.any()),
            verbatim=bool(both.any()),
            plain=bool(similar.max() > PLAIN),
            work=self.info.works[pick].name,
        )

    def save(self, folder: Path) -> None:
        """Write the index; an index that is there is replaced as a whole.

        Raises:
            SpecError: the folder holds other files, or can't be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()) and not (folder / INFO).is_file():
                msg = f"{folder} holds other files and no index; name an empty or new folder"
                raise SpecError(msg)
            _put(folder / self.info.data, pack(self._vectors, self._hashes))
            # Last, so that a reader finds the old index or the new one, never half of one.
            _put(folder / INFO, self.info.model_dump_json(indent=1).encode())
            for file in folder.glob("works-*.npz"):
                if file.name != self.info.data:
                    file.unlink()
        except OSError as err:
            msg = f"index {folder} can't be written: {err.strerror}; choose another folder"
            raise SpecError(msg) from err


class ProtectedFilter:
    """The index as one of the output guard's checks.

    Under the policy ``flag`` a picture that repeats a work is let through and logged.
    """

    def __init__(self, index: ProtectedIndex, scorer: ImageTextScorer, policy: Policy) -> None:
        self._index, self._scorer, self._policy = index, scorer, policy

    def check(self, images: Sequence[Image]) -> list[Finding]:
        """One finding a picture, in order; n RGB images of any size."""
        findings = []
        for match in self._index.look(images, self._scorer):
            near = f"cosine {match.similarity:.3f}, {match.distance} of 64 bits"
            detail = f"repeats {match.work!r}: {near}"
            if match.copied and self._policy == "flag":
                log.warning("protected work: a picture %s", detail)
            stopped = match.copied and self._policy == "block"
            score = min(max(match.similarity, 0.0), 1.0)
            findings.append(
                Finding(not stopped, PROTECTED_WORK if stopped else "", score, detail * stopped)
            )
        return findings


def open_index(profile: Profile, settings: Settings) -> ProtectedIndex | None:
    """The deployment's index; None where the operator has configured none.

    Raises:
        ConfigurationError: it can't be read, or was made with another scorer.
    """
    if settings.protected is None:
        return None
    index = ProtectedIndex.load(settings.protected.expanduser())
    revision = profile.role(SCORER).resolve_revision()
    if index.info.scorer != revision:
        msg = (
            f"index of protected works {settings.protected} was made with scorer "
            f"{index.info.scorer}, profile {profile.name!r} has {revision}; "
            f"run: python -m lora_factory protect … --profile {profile.name}"
        )
        raise ConfigurationError(msg)
    return index


def protected_conditions(settings: Settings) -> dict[str, str]:
    """What of the deployment's index decides a stage's result, for its artifact key.

    Raises:
        ConfigurationError: the index can't be read.
    """
    if settings.protected is None:
        return {}
    folder = settings.protected.expanduser()
    try:
        digest = hashlib.sha256((folder / INFO).read_bytes()).hexdigest()
    except OSError as err:
        raise _unusable(folder, str(err)) from err
    return {"protected_index": f"sha256:{digest[:16]} {settings.protected_policy}"}


def pack(vectors: Vectors, hashes: Hashes) -> bytes:
    """The bytes of ``works-….npz``: the same arrays give the same bytes."""
    out = io.BytesIO()
    # np.savez stamps no time on its members.
    np.savez(out, vectors=vectors.astype(np.float32), hashes=np.packbits(hashes, axis=2))
    return out.getvalue()


def compare(
    vectors: Vectors, hashes: Hashes, works: Vectors, prints: Hashes
) -> tuple[Vectors, Bits]:
    """k×n cosines and Hamming distances to the best of each work's views.

    Args:
        vectors: k×d.
        hashes: k×2×64; the first of the two is the picture as it is.
        works: n×v×d.
        prints: n×w×64.
    """
    plain, views = hashes[:, 0], range(works.shape[1])
    similar: Vectors = np.max([vectors @ works[:, view].T for view in views], axis=0)
    distant = hash_distances(plain, prints[:, 0])
    for view in range(1, prints.shape[1]):
        np.minimum(distant, hash_distances(plain, prints[:, view]), out=distant)
    return similar, distant


def _put(file: Path, data: bytes) -> None:
    part = file.with_name(f".{uuid4().hex}.part")
    with part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)


def _unusable(folder: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"index of protected works {folder} can't be used: {why}; "
        "make it again with `python -m lora_factory protect`"
    )
