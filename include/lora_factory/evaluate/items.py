"""What spoils a dataset: captions of something else, and pictures of another style.

Judged by the scorer, and only where the scorer shows on this very data that it can tell. Its
proof must survive the fault it looks for: with a third of the captions shuffled, an average
over all pairs says "can't tell" (AUC 0.8), so medians are asked instead, which half of the
data may spoil.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.evaluation import ItemAdvice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.evaluate.data import StyleData
    from lora_factory.evaluate.statistics import Floats
    from lora_factory.guard.copying import Nearest
    from lora_factory.models.roles import ImageTextScorer, Vectors

FEWEST = 12
"""Images under which nothing is said of single ones."""
SHARP = 0.85
"""Share of other captions that at least half of the images must rank below their own."""
MISMATCH = 0.6
"""A caption that ranks below this share of the others is of something else: right ones of a
sharp scorer seldom do, shuffled ones in 6 of 10 cases."""
FIRST = 0.7
"""Share of the soundly captioned images whose own caption must be the scorer's first choice."""
STRANGE = 6.0
"""Robust standard deviations below the median likeness to the rest that make another style."""
APART = 10.0
"""The same for a whole group of images. Halves of one style lie 5.3 apart at most (nine sets of
icons); with 8 a group held wrong images more often (0.91 to 0.98 right instead of 0.95 to 0.99)."""
MOST = 1 / 3
"""Of the dataset: more than that is not a spoiled item but a scorer that errs."""
MOST_FOREIGN = 0.4
"""The same of images of other styles; a third of a set, and what chance adds."""
MOST_COPIED = 0.1
NO_SPREAD = 1e-6
MAX_TEXT = 500


@dataclass(frozen=True)
class DatasetItems:
    """The n items of a dataset.

    ``images``, ``texts``: n×d unit rows in the scorer's joint space; row i of ``texts`` is of
    subject i, as the caption names it without trigger and style words.
    """

    sha256: tuple[str, ...]
    subjects: tuple[str, ...]
    images: Vectors
    texts: Vectors


def advise_items(data: StyleData, scorer: ImageTextScorer) -> tuple[ItemAdvice, ...]:
    """:func:`judge_items` on a dataset as evaluation has read it."""
    if data.images is None:
        return ()
    subjects = tuple(record.subject or record.text for record in data.records)
    shas = tuple(record.sha256 for record in data.records)
    return judge_items(DatasetItems(shas, subjects, data.images, scorer.embed_texts(subjects)))


def judge_items(items: DatasetItems) -> tuple[ItemAdvice, ...]:
    """Items to drop or to caption anew, in the dataset's order; empty where nothing stands out.

    An off-style picture is dropped whatever its caption says. A caption of something else is
    replaced by the dataset's own caption that fits best, where the scorer's first choice can be
    relied on (it is right for most other images, and fits half as well as right ones usually
    do); else it is taken away. The image stays: it shows the style as well as the others.
    """
    if len(items.sha256) < FEWEST:
        return ()
    found = {item.sha256: item for item in caption_mismatches(items)}
    found |= {item.sha256: item for item in off_style(items)}
    return tuple(found[sha256] for sha256 in items.sha256 if sha256 in found)


def off_style(items: DatasetItems) -> list[ItemAdvice]:
    """Images of another style: a group of them, and single ones far from what is left.

    One by one they are seen while they are few: a third of a set makes the usual likeness to the
    rest as wide as itself (seen: 0 of 39 signs among 80 line icons, all 39 as a group). Styles
    that lie close to each other for the scorer (outlines and thin outlines) are not told apart.
    """
    images = items.images.astype(np.float64)
    kept = np.arange(len(images))
    found: dict[int, str] = {}
    while len(kept) >= FEWEST:
        foreign, apart = _smaller_half(images[kept])
        if apart < APART or len(found) + foreign.sum() > MOST_FOREIGN * len(images):
            break
        told = f"one of {foreign.sum()} images of another style, {apart:.0f} deviations apart"
        found |= dict.fromkeys(kept[foreign].tolist(), told)
        kept = kept[~foreign]
    found |= {int(kept[row]): told for row, told in _strangers(images[kept]).items()}
    return [
        ItemAdvice(sha256=items.sha256[row], do="drop", reason="off_style", detail=found[row])
        for row in sorted(found)
    ]


def _smaller_half(images: Floats) -> tuple[NDArray[np.bool_], float]:
    """n images → which of them 2-means puts into the smaller group, and how far it lies apart.

    Spherical 2-means, from the image most like the rest and the one least like that. Apart: the
    medians of both groups' likeness to the larger one, in robust standard deviations of its own.
    """
    first = images[int((images @ images.sum(axis=0)).argmax())]
    centres = np.stack([first, images[int((images @ first).argmin())]])
    second = np.zeros(len(images), dtype=np.bool_)
    for _ in range(50):
        before, second = second, images @ (centres[1] - centres[0]) > 0
        if not second.any() or second.all() or (second == before).all():
            break
        means = np.stack([images[~second].mean(axis=0), images[second].mean(axis=0)])
        centres = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    smaller = second if second.sum() * 2 <= len(images) else ~second
    most, few = images[~smaller], images[smaller]
    if not len(few):
        return smaller, 0.0
    own = (most @ most.sum(axis=0) - 1) / max(len(most) - 1, 1)
    spread = 1.4826 * float(np.median(np.abs(own - np.median(own))))
    gap = float(np.median(own) - np.median(few @ most.mean(axis=0)))
    return smaller, gap / spread if spread >= NO_SPREAD else 0.0


def _strangers(images: Floats) -> dict[int, str]:
    """Row → what was seen, of images far less like the rest than the rest are like each other.

    Likeness is the mean cosine to all others; far is ``STRANGE`` robust standard deviations
    (1.4826 × median absolute deviation) below the median.
    """
    count = len(images)
    likeness = (images @ images.sum(axis=0) - 1) / max(count - 1, 1)
    middle = float(np.median(likeness))
    spread = 1.4826 * float(np.median(np.abs(likeness - middle)))
    if spread < NO_SPREAD:
        return {}
    far = np.flatnonzero((middle - likeness) / spread > STRANGE)
    if len(far) > MOST * count:
        return {}
    return {
        row: f"mean cosine to the others {likeness[row]:.2f}, usual {middle:.2f}"
        for row in far.tolist()
    }


def caption_mismatches(items: DatasetItems) -> list[ItemAdvice]:
    """Images whose caption names something else; empty where the scorer isn't sharp here."""
    fits, own, names = _fits(items)
    if len(names) < FEWEST:
        return []
    rows = np.arange(len(fits))
    rank = (fits < fits[rows, own][:, None]).sum(axis=1) / (len(names) - 1)
    wrong = np.flatnonzero(rank < MISMATCH)
    if np.median(rank) < SHARP or len(wrong) > MOST * len(fits):
        return []
    right = rank >= SHARP
    usual = float(np.median(fits[rows, own][right]))
    chosen = float((rank[right] == 1).sum() / max(1, (rank >= MISMATCH).sum()))
    least = usual / 2 if chosen >= FIRST else float("inf")
    return [_mismatch(items, row, names, rank, fits, least) for row in wrong.tolist()]


def _mismatch(
    items: DatasetItems, row: int, names: list[str], rank: Floats, fits: Floats, least: float
) -> ItemAdvice:
    """``least``: fit from which the best other caption may be given."""
    better, known = names[int(fits[row].argmax())], float(fits[row].max()) >= least
    detail = f"{items.subjects[row]!r} fits worse than {1 - rank[row]:.0%} of the other captions"
    detail += f"; {better!r} fits best" if known else ", and none can be given for sure"
    return ItemAdvice(
        sha256=items.sha256[row],
        do="recaption",
        reason="caption_mismatch",
        text=better[:MAX_TEXT] if known else "",
        detail=detail[:MAX_TEXT],
    )


def _fits(items: DatasetItems) -> tuple[Floats, NDArray[np.intp], list[str]]:
    """How well each of n images fits each of k different captions, which is its own, and k.

    Cosines less the mean of their row and of their column: some pictures score low with any
    text, and some texts go with any picture.
    """
    counted = Counter(items.subjects)
    names = list(counted)
    first = [items.subjects.index(name) for name in names]
    column = {name: number for number, name in enumerate(names)}
    own = np.array([column[subject] for subject in items.subjects], dtype=np.intp)
    cosines = items.images.astype(np.float64) @ items.texts[first].astype(np.float64).T
    centred = cosines - cosines.mean(axis=1, keepdims=True) - cosines.mean(axis=0) + cosines.mean()
    return centred, own, names


def copied_items(nearest: Sequence[Nearest], sha256: Sequence[str]) -> tuple[ItemAdvice, ...]:
    """Training images that pictures repeat, most repeated first.

    None where more than ``MOST_COPIED`` of them are repeated: that is no matter of single
    images but of a training that went too far.

    Args:
        nearest: each picture's nearest training image.
        sha256: of the training images, in the order that ``nearest`` counts in.
    """
    times = Counter(one.index for one in nearest if one.copied)
    if len(times) > MOST_COPIED * len(sha256):
        return ()
    return tuple(
        ItemAdvice(
            sha256=sha256[index],
            do="drop",
            reason="copied",
            detail=f"{count} of {len(nearest)} pictures repeat it",
        )
        for index, count in times.most_common()
    )
