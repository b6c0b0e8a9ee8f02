"""Prompt filter: the word rules, and what a prompt means to the role ``text_embedder``.

A prompt that names none of the rules' words can still describe what may not be asked for. Its
mean cosine with ``unsafe`` concepts minus that with ``safe`` ones (``rules.toml``,
``[meaning]``) is a linear score in the embedder's space; from the threshold on it is refused.
The embedder's language is English, as the rules' is.

Measured on the held-out half of the labelled prompts (113 safe, most of them hard, 109 unsafe;
``tests/labelled_prompts.py``), with all-MiniLM-L6-v2: recall 0.86 [0.79, 0.92], precision 0.89
[0.81, 0.93]; the rules alone: 0.68 [0.59, 0.76] and 0.89 [0.81, 0.94]. One person wrote rules,
concepts and prompts, so strangers' prompts will do worse. ``make bench ONLY=guard`` counts anew.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_factory.guard.content import MAX_LENGTH, RULES, Verdict, check_prompt, normalise
from lora_factory.models.loaders import text_embedder

if TYPE_CHECKING:
    from lora_factory.models.profiles import Profile
    from lora_factory.models.roles import TextEmbedder, Vectors

MEANING = "meaning"


class PromptFilter:
    """Rules and meaning; safe to use from several threads.

    Args:
        embedder: the role ``text_embedder``; the threshold was chosen with all-MiniLM-L6-v2.
    """

    def __init__(self, embedder: TextEmbedder) -> None:
        concepts = tomllib.loads(RULES.read_text(encoding="utf-8"))["meaning"]
        self.threshold = float(concepts["threshold"])
        self._embedder = embedder
        # A tokenizer that two threads use at once fails ("Already borrowed").
        self._lock = threading.Lock()
        unsafe, safe = (embedder.encode(concepts[name]).mean(axis=0) for name in ("unsafe", "safe"))
        self._direction = unsafe - safe

    def scores(self, texts: Sequence[str]) -> Vectors:
        """n texts → n float32 in [-2, 2]: how much closer to unsafe concepts than to safe ones."""
        with self._lock:
            vectors = self._embedder.encode([normalise(text) for text in texts])
        scores: Vectors = vectors @ self._direction
        return scores

    def check(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge n texts; ``rule`` as :func:`check_prompt` names it, or ``meaning``.

        The texts themselves are never logged here.
        """
        verdicts = [check_prompt(text) for text in texts]
        scores = self.scores([text[:MAX_LENGTH] for text in texts])
        return [
            verdict
            # Not `score >= threshold`: a score that is no number is not a pass.
            if not verdict.allowed or score < self.threshold
            else Verdict(allowed=False, rule=MEANING)
            for verdict, score in zip(verdicts, scores, strict=True)
        ]


def prompt_filter(profile: Profile) -> PromptFilter:
    """The filter of a profile.

    Raises:
        ConfigurationError, ModelError: the role ``text_embedder`` can't be filled; nothing passes.
    """
    return PromptFilter(text_embedder(profile))
