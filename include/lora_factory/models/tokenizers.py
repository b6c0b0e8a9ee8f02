"""Tokenizers of bases: what a base makes of a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from lora_factory.models.loaders import pretrained

if TYPE_CHECKING:
    from lora_factory.models.profiles import BaseEntry


class Tokenizer(Protocol):
    """What is needed of a base's tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""


def load_tokenizer(entry: BaseEntry) -> Tokenizer:
    """A base's tokenizer.

    Of a base with two (SDXL) the first: both have CLIP's vocabulary and merges.

    Raises:
        ModelError: the base has no usable tokenizer.
    """
    from transformers import CLIPTokenizerFast

    found: Tokenizer = pretrained(CLIPTokenizerFast.from_pretrained, entry, subfolder="tokenizer")
    return found


def known_to(word: str, tokenizers: Mapping[str, Tokenizer]) -> str | None:
    """The first base that reads ``word`` as one token, so that it means something there.

    A trigger word that is one token stands for something already: training would have to
    overwrite it, and every prompt that uses the word would change.
    """
    for base, tokenizer in tokenizers.items():
        if len(tokenizer.tokenize(word)) < 2:
            return base
    return None
