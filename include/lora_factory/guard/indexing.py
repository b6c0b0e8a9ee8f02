"""A folder of protected works → an index, calibrated on originals."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.errors import DataError
from lora_factory.guard.copying import CALIBRATION_LIMIT, PLAIN, Cuts, perceptual_hashes
from lora_factory.guard.protected import (
    AGREES,
    CHUNK,
    CROPS,
    FEWEST_ORIGINALS,
    RIMS,
    IndexInfo,
    ProtectedIndex,
    Skipped,
    Work,
    compare,
    pack,
)
from lora_factory.imaging.decode import ImageRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.guard.copying import Bits, Hashes
    from lora_factory.models.roles import ImageTextScorer, Vectors

log = logging.getLogger(__name__)
Shares = tuple[float, float, float, float]
TWIN_BITS = 6
"""Works this close by hash and above ``PLAIN`` by cosine are one work under two names."""
BLANK = 4.0
"""Standard deviation of the grey levels (of 255) under which there is nothing to protect."""


def build_index(
    works: Path,
    originals: Path | None,
    scorer: ImageTextScorer,
    revision: str,
    on_image: Callable[[], None] = lambda: None,
) -> ProtectedIndex:
    """Index the images under a folder and calibrate on them and on other originals.

    Args:
        works: folder of protected works, searched through and through.
        originals: folder of images that copy none of them; None: the works alone.
        scorer: of the role ``image_text_scorer``.
        revision: its resolved revision.
        on_image: called after each file.

    Raises:
        DataError: no usable image, or too few originals to calibrate on.
    """
    skipped: list[Skipped] = []
    kept, vectors, hashes = _read(works, scorer, skipped, on_image)
    if not kept:
        raise DataError(_nothing(works, skipped))
    seen, marks = vectors[:0, 0], hashes[:0, :2]
    if originals is not None:
        more: list[Skipped] = []
        others, grown, printed = _read(originals, scorer, more, on_image)
        seen, marks = grown[:, 0], printed[:, :2]
        log.info("originals: %d images, %d files left out", len(others), len(more))
    cosines, bits, twins = _closeness(vectors, hashes, seen, marks)
    if len(cosines) < FEWEST_ORIGINALS:
        msg = (
            f"{len(cosines)} originals are too few to calibrate on, {FEWEST_ORIGINALS} are needed; "
            "name a folder of images that copy none of the works: --originals FOLDER"
        )
        raise DataError(msg)
    cuts = Cuts.of(cosines, bits, agrees=AGREES)
    digest = hashlib.sha256(pack(vectors, hashes)).hexdigest()
    info = IndexInfo(
        scorer=revision,
        data=f"works-{digest[:16]}.npz",
        data_sha256=digest,
        works=tuple(kept),
        skipped=tuple(skipped),
        cosine=cuts.cosine,
        cosine_agrees=cuts.cosine_agrees,
        bits=cuts.bits,
        bits_agrees=cuts.bits_agrees,
        calibrated_on=cuts.calibrated_on,
        twins=twins,
        plain_on_originals=float((cosines > PLAIN).mean()),
    )
    return ProtectedIndex(info, vectors, hashes)


def _read(
    folder: Path, scorer: ImageTextScorer, skipped: list[Skipped], on_image: Callable[[], None]
) -> tuple[list[Work], Vectors, Hashes]:
    """Works under a folder, and their n×6×d embeddings and n×22×64 hashes."""
    kept: list[Work] = []
    vectors: list[Vectors] = []
    hashes: list[Hashes] = []
    for works, images in _chunks(folder, skipped, on_image):
        kept += works
        seen = [scorer.embed_images(view) for rim in RIMS for view in _views(images, rim)]
        vectors.append(np.stack(seen, axis=1))
        marks = [perceptual_hashes([_inner(i, crop) for i in images]) for crop in CROPS]
        hashes.append(np.concatenate(marks, axis=1))
    if not kept:
        return [], np.zeros((0, 1, 1), np.float32), np.zeros((0, 2, 64), bool)
    return kept, np.concatenate(vectors).astype(np.float32), np.concatenate(hashes)


def _chunks(
    folder: Path, skipped: list[Skipped], on_image: Callable[[], None]
) -> Iterator[tuple[list[Work], list[Image]]]:
    """Distinct usable images of a folder, ``CHUNK`` at a time."""
    works: list[Work] = []
    images: list[Image] = []
    seen: set[str] = set()
    for file in files_of(folder):
        name = file.relative_to(folder).as_posix().encode("utf-8", "replace").decode()
        try:
            data = file.read_bytes()
            image = decode(data)
        except (ImageRejected, OSError) as err:
            why = err.reason if isinstance(err, ImageRejected) else "unreadable"
            skipped.append(Skipped(name=name, reason=why))
            continue
        finally:
            on_image()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in seen or np.asarray(image.convert("L"), np.float32).std() < BLANK:
            reason = "exact_duplicate" if sha256 in seen else "uniform"
            skipped.append(Skipped(name=name, reason=reason))
            continue
        seen.add(sha256)
        works.append(Work(name=name, sha256=sha256))
        images.append(image)
        if len(works) == CHUNK:
            yield works, images
            works, images = [], []
    if works:
        yield works, images


def files_of(folder: Path) -> list[Path]:
    """All files under a folder but hidden ones, in the order of their names.

    Raises:
        DataError: it is no folder.
    """
    if not folder.is_dir():
        msg = f"{folder} is no folder; name one with images"
        raise DataError(msg)
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(f for f in files if not f.name.startswith("."))


def _views(images: Sequence[Image], crop: Shares) -> Iterator[list[Image]]:
    """The images cropped, and the same mirrored."""
    from PIL import ImageOps

    inner = [_inner(image, crop) for image in images]
    yield inner
    yield [ImageOps.mirror(image) for image in inner]


def _inner(image: Image, crop: Shares) -> Image:
    """The image without these shares on the left, at the top, right, and bottom."""
    width, height = image.size
    left, top, right, bottom = crop
    cut = (
        round(width * left),
        round(height * top),
        max(width - round(width * right), 1),
        max(height - round(height * bottom), 1),
    )
    return image.crop(cut) if any(crop) else image


def _closeness(
    vectors: Vectors, hashes: Hashes, others: Vectors, marks: Hashes
) -> tuple[Vectors, Bits, int]:
    """How close other images come to works: cosines, bits, and how many are twins.

    Each work (at most ``CALIBRATION_LIMIT``) against all others, and each other original
    against all works. A pair that is one work under two names says nothing of originals.
    """
    own = np.linspace(0, len(vectors) - 1, min(len(vectors), CALIBRATION_LIMIT)).astype(int)
    cosines, bits, twins = [], [], 0
    queries = [(vectors[own, 0], hashes[own, :2], own), (others, marks, None)]
    for wanted, printed, at in queries:
        for start in range(0, len(wanted), CHUNK):
            part = slice(start, start + CHUNK)
            similar, distant = compare(wanted[part], printed[part], vectors, hashes)
            twin = (distant <= TWIN_BITS) & (similar > PLAIN)
            if at is not None:
                twin[np.arange(len(twin)), at[part]] = False
            twins += int(twin.any(axis=1).sum())
            if at is not None:
                twin[np.arange(len(twin)), at[part]] = True  # nor does a work and itself
            alone = twin.all(axis=1)
            similar = np.where(twin, -np.inf, similar)
            distant = np.where(twin, 64, distant)
            cosines.append(similar.max(axis=1)[~alone])
            bits.append(distant.min(axis=1)[~alone])
    return np.concatenate(cosines).astype(np.float32), np.concatenate(bits), twins


def _nothing(folder: Path, skipped: Sequence[Skipped]) -> str:
    names = ", ".join(f"{one.name} {one.reason}" for one in skipped[:3])
    return f"{folder} holds no usable image ({names or 'it is empty'}); name another folder"
