"""What each role can do, whatever model fills it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Vectors = NDArray[np.float32]


class TextEmbedder(Protocol):
    """Sentences → vectors for semantic similarity."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """n texts → n×d float32, rows of unit length."""


class ImageTextScorer(Protocol):
    """Images and texts → one joint space (CLIP)."""

    name: str

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n×d float32, rows of unit length."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """n texts (cut at the model's limit) → n×d float32, rows of unit length."""


class Captioner(Protocol):
    """Pictures → sentences, for those whose page says nothing of them."""

    name: str

    def captions(self, images: Sequence[Image]) -> list[str]:
        """n RGB images of any size → n captions; empty where the model has nothing to say."""


class TopicClassifier(Protocol):
    """Text × topics → scores, multi-label (article, 1.1 ``classify_topic``)."""

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> Vectors:
        """n texts, t topics → n×t float32, each in [-1, 1]; higher is closer."""


class ContentFilter(Protocol):
    """Images → how likely each may not be used or shown."""

    name: str
    threshold: float
    """Scores from here on are unsafe."""

    def scores(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n float32 in [0, 1]; higher is less safe."""


class TextDetector(Protocol):
    """Images → how much of each is writing."""

    name: str

    def shares(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n float32 in [0, 1]: share of the picture under text."""
