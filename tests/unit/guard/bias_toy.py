"""A toy world for the bias audit: words are vectors, each attribute is an axis.

A prompt's embedding is the mean of its words' vectors, plus what they say of an attribute, plus
the bias a side has for a person. A picture shows the group that its embedding leans to, with
noise. So the audit can be tried on sets whose bias is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lora_factory.guard.bias.attributes import Attribute, vocabulary
from lora_factory.guard.bias.audit import Shot
from lora_factory.guard.bias.projection import FairProjection

WIDTH = 64
AXES = 3
POLES = {
    0: ({"woman", "female", "girl"}, {"man", "male", "boy"}),
    1: ({"young"}, {"old"}),
    2: ({"light"}, {"dark"}),
}
Bias = Callable[[str], Sequence[float]]


def neutral(_person: str) -> Sequence[float]:
    """No bias."""
    return (0.0, 0.0, 0.0)


class ToyWorld:
    """Embeds texts and makes pictures; ``biases`` has one function a side."""

    def __init__(
        self, biases: Mapping[str, Bias], *, noise: float = 0.1, blind: frozenset[int] = frozenset()
    ) -> None:
        self.biases = biases
        self.noise = noise
        self.blind = blind
        self.made: dict[str, int] = {}

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_unit(_meaning(text)) for text in texts]).astype(np.float32)

    def encode(self, side: str) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
        """A text encoder with one token, that carries the side's bias."""

        def encoder(prompts: Sequence[str]) -> dict[str, np.ndarray]:
            rows = np.stack([_meaning(p) + _on_axes(self.biases[side](p)) for p in prompts])
            return {"tokens": rows[:, None], "pooled": rows}

        return encoder

    def look(
        self, side: str, shots: Sequence[Shot], mitigate: Sequence[Attribute] = ()
    ) -> np.ndarray:
        self.made[side] = self.made.get(side, 0) + len(shots)
        prompts = [shot.person for shot in shots]
        encoder = self.encode("lora" if side == "mitigated" else side)
        outputs = encoder(prompts)
        if mitigate:
            outputs = FairProjection(mitigate, encoder, vocabulary().contexts)(prompts, outputs)
        return np.stack([
            self._picture(row, shot, side)
            for row, shot in zip(outputs["pooled"], shots, strict=True)
        ]).astype(np.float32)

    def _picture(self, embedding: np.ndarray, shot: Shot, side: str) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(f"{shot.person}{shot.seed}{side}".encode()))
        lean = embedding[:AXES] + rng.normal(0, self.noise, AXES)
        shown = np.where(lean >= 0, 1.0, -1.0) + rng.normal(0, 0.05, AXES)
        for axis in self.blind:
            shown[axis] = rng.normal(0, 1)
        return _unit(np.concatenate([0.4 * shown, embedding[AXES:]]))


def _meaning(text: str) -> np.ndarray:
    words = text.lower().replace(",", " ").split()
    axes = np.zeros(AXES)
    for axis, (first, second) in POLES.items():
        axes[axis] += any(word in first for word in words) - any(word in second for word in words)
    known = set().union(*(side for pair in POLES.values() for side in pair))
    content = np.mean([_word(word) for word in words if word not in known], axis=0)
    return np.concatenate([0.5 * axes, _unit(content)])


def _word(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH - AXES)


def _on_axes(bias: Sequence[float]) -> np.ndarray:
    return np.concatenate([np.asarray(bias, dtype=float), np.zeros(WIDTH - AXES)])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
