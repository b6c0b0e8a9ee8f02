"""Which of a page's texts says what the picture shows, and a composed one where none does.

``alt`` first: it is written to stand in for the picture. A ``figcaption`` is often a remark
on it ("The apple, hung once more"). A folder's ``.txt`` arrives as caption, without an alt.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_factory.sanitize.spelling import spelled, words_of
from lora_factory.sanitize.text import from_file_name, repair, sentences, usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lora_factory.contracts.records import RawRecord

MAX_WORDS = 12  # of a composed caption; longer sentences tell stories
TextSource = Literal["caption", "alt", "nearby", "title", "composed", "none"]


@dataclass(frozen=True)
class Caption:
    """A text for a picture and where it comes from."""

    text: str
    source: TextSource
    steps: tuple[str, ...] = ()


NO_CAPTION = Caption("", "none")


def found_caption(record: RawRecord) -> Caption | None:
    """The page's own text for this picture, repaired; None where there is no usable one."""
    for source in ("alt", "caption"):
        repaired = repair(getattr(record, source))
        if usable(repaired.text):
            text = spelled(repaired.text, words_of((*record.topics, record.page_title)))
            steps = ("spelling",) if text != repaired.text else ()
            return Caption(text, source, (*repaired.steps, *steps))
    return None


def advised_caption(text: str) -> Caption | None:
    """A caption that advice gives, repaired as any text from outside; None: unusable."""
    repaired = repair(text)
    return Caption(repaired.text, "composed", repaired.steps) if usable(repaired.text) else None


def candidates(record: RawRecord, vocabulary: Sequence[str]) -> list[str]:
    """What a composed caption may be: file name, nearby text, title, vocabulary."""
    short = [text for text in sentences(record.nearby) if len(text.split()) <= MAX_WORDS]
    title = repair(record.page_title.split(":")[0]).text
    found = [from_file_name(record.url), *short, title if usable(title) else "", *vocabulary]
    return list(dict.fromkeys(text for text in found if text))


def vocabulary(captions: Sequence[Caption | None], size: int = 64) -> list[str]:
    """The most frequent found captions of the set, as words for pictures that have none."""
    counted = Counter(caption.text.lower() for caption in captions if caption and caption.text)
    return [text for text, _ in counted.most_common(size)]


def compose(
    options: Sequence[str], image: NDArray[np.float32], vectors: Sequence[NDArray[np.float32]]
) -> Caption:
    """Role ``captioner``, kind ``composed``: the option that the scorer puts closest.

    Args:
        options: n candidate captions.
        image: unit vector of the picture, d.
        vectors: n unit vectors of the options, d each.
    """
    if not options:
        return NO_CAPTION
    closest = max(range(len(options)), key=lambda at: float(vectors[at] @ image))
    return Caption(options[closest], "composed")


def generated(text: str) -> Caption | None:
    """What a captioner says, as a caption; None: unusable."""
    repaired = repair(text)
    return Caption(repaired.text, "composed", ("generated",)) if usable(repaired.text) else None


def named_caption(record: RawRecord) -> Caption:
    """The file name's words, or nothing: all that may be said where no scorer can choose."""
    text = from_file_name(record.url)
    return Caption(text, "composed") if text else NO_CAPTION
