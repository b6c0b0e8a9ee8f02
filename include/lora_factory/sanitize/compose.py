"""Role ``captioner``, kind ``composed``: captions for images whose page says too little.

No model writes anything. Candidates are the page's own words about the image (its file
name, sentences around it, a shared title) and a vocabulary: the texts that other images of
the crawl were given, and the topics. The image–text scorer ranks them. That is retrieval,
and it is only as good as the scorer: where the scorer failed its test on the real pairs, the
file name's words are taken, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.models.roles import ImageTextScorer

MAX_VOCABULARY = 2000
PAGE_BONUS = 0.05  # cosine; the page's own words win a near tie against another page's


@dataclass(frozen=True)
class Composer:
    """Ranks candidate captions.

    ``trusted``: the scorer passed its test on this data. ``accept``: cosine that a composed
    caption must reach, e.g. the lower quartile of the real pairs.
    """

    scorer: ImageTextScorer
    vocabulary: Sequence[str]
    trusted: bool
    accept: float

    def compose(
        self, images: NDArray[np.float32], candidates: Sequence[Sequence[str]]
    ) -> list[tuple[str, float | None]]:
        """A caption and its cosine for each image, or ``("", None)``.

        Args:
            images: n×d, unit rows.
            candidates: for each image the page's words, the file name's first.
        """
        if not self.trusted:
            return [(found[0] if found else "", None) for found in candidates]
        words = list(dict.fromkeys(self.vocabulary))[:MAX_VOCABULARY]
        page = list(dict.fromkeys(text for found in candidates for text in found))
        texts = words + [text for text in page if text not in set(words)]
        if not texts:
            return [("", None)] * len(images)
        cosines = images @ self.scorer.embed_texts(texts).T
        column = {text: index for index, text in enumerate(texts)}
        composed = []
        for row, found in zip(cosines, candidates, strict=True):
            open_to = np.zeros(len(texts), dtype=bool)
            open_to[: len(words)] = True
            own = [column[text] for text in found]
            open_to[own] = True
            score = np.where(open_to, row, -2.0)
            score[own] += PAGE_BONUS
            best = int(np.argmax(score))
            fits = row[best] >= self.accept
            composed.append((texts[best], float(row[best])) if fits else ("", None))
        return composed
