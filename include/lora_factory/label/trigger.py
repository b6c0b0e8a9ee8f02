"""The trigger word: one that no base knows, so that only the LoRA gives it a meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_factory.errors import ConfigurationError, SpecError
from lora_factory.label.taxonomy import Taxonomy
from lora_factory.models.tokenizers import known_to, load_tokenizer

if TYPE_CHECKING:
    from lora_factory.models.profiles import Profile
    from lora_factory.models.tokenizers import Tokenizer

CONSONANTS, VOWELS = "bdfgklmnprtvz", "aeiou"
TRIES = 1000


def load_tokenizers(profile: Profile) -> dict[str, Tokenizer]:
    """Base name → tokenizer, for every base of the profile.

    Raises:
        ModelError: a base has no usable tokenizer.
    """
    return {name: load_tokenizer(entry) for name, entry in profile.bases.items()}


def common_words(taxonomy: Taxonomy) -> frozenset[str]:
    """Words that can't be triggers whatever a tokenizer does to them."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = {word for theme in taxonomy.themes.values() for word in theme.examples}
    for manners in (taxonomy.styles, taxonomy.schools):
        found |= {word for manner in manners.values() for word in manner.words}
    return frozenset({*found, *taxonomy.themes, *ENGLISH_STOP_WORDS, "style"})


def objection(
    trigger: str, tokenizers: Mapping[str, Tokenizer], words: Collection[str]
) -> str | None:
    """Why ``trigger`` won't do, or None."""
    if trigger in words:
        return "is a common word"
    if (base := known_to(trigger, tokenizers)) is not None:
        return f"is a single token of base {base!r}, which already means something by it"
    return None


def check_trigger(
    trigger: str, tokenizers: Mapping[str, Tokenizer], words: Collection[str]
) -> None:
    """Refuse a trigger that somebody asked for.

    Raises:
        SpecError: it is a common word, or one token of a base.
    """
    if (reason := objection(trigger, tokenizers, words)) is not None:
        msg = f"trigger {trigger!r} {reason}; choose a made-up word, or none to have one made"
        raise SpecError(msg)


def make_trigger(
    topics: Sequence[str],
    items: Iterable[str],
    tokenizers: Mapping[str, Tokenizer],
    words: Collection[str],
) -> str:
    """A pronounceable word of five letters, decided by topics and content alone.

    Args:
        topics: of the run.
        items: sha256 of the images, in any order.
        tokenizers: of :func:`load_tokenizers`.
        words: that are taken: common ones, and those of the captions.

    Raises:
        ConfigurationError: every one of 1,000 words is taken (a tokenizer without merges).
    """
    seed = hashlib.sha256("\n".join([*topics, *sorted(items)]).encode("utf-8", "surrogatepass"))
    for number in range(TRIES):
        digest = hashlib.sha256(seed.digest() + number.to_bytes(4, "big")).digest()
        letters = zip(digest, (CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS), strict=False)
        trigger = "".join(alphabet[byte % len(alphabet)] for byte, alphabet in letters)
        if objection(trigger, tokenizers, words) is None:
            return trigger
    msg = f"no free trigger word among {TRIES}; check the tokenizers of the profile's bases"
    raise ConfigurationError(msg)
