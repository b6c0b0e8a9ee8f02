"""Role ``captioner``: pictures → what they show, in a sentence (article, 2.1)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_factory.errors import ConfigurationError
from lora_factory.models.loaders import device, pretrained
from lora_factory.models.profiles import Profile, RoleModel

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.models.roles import Captioner

LONGEST = 30
"""Tokens of a caption; BLIP's own are 10 to 15."""
LEAST = 2
"""Words below which a caption tells nothing."""
BEAMS = 3  # of the BLIP paper's captioning, arXiv 2201.12086, appendix
_DTYPES = ("float16", "bfloat16")


class BlipCaptioner:
    """BLIP (Li et al. 2022, arXiv 2201.12086) by ``BlipForConditionalGeneration``."""

    def __init__(self, entry: RoleModel) -> None:
        import torch
        from transformers import (
            BertTokenizerFast,
            BlipForConditionalGeneration,
            BlipImageProcessorPil,
        )

        self.name = f"{entry.path or entry.model or entry.package}@{entry.resolve_revision()}"
        self._batch = entry.batch_size
        self._device = device()
        # Half precision is for GPUs: a CPU has no fast kernels for it.
        half = entry.dtype in _DTYPES and self._device != "cpu"
        self._dtype = getattr(torch, entry.dtype) if half else torch.float32
        model: Any = pretrained(
            BlipForConditionalGeneration.from_pretrained,
            entry,
            use_safetensors=True,
            dtype=self._dtype,
        )
        self._model = model.to(self._device).eval()
        self._images = pretrained(BlipImageProcessorPil.from_pretrained, entry)
        self._tokens = pretrained(BertTokenizerFast.from_pretrained, entry)

    def captions(self, images: Sequence[Image]) -> list[str]:
        """n RGB images of any size → n captions; empty where the model has nothing to say.

        Beam search without sampling: equal pictures give equal captions.
        """
        found: list[str] = []
        for start in range(0, len(images), self._batch):
            found += self._describe(images[start : start + self._batch])
        return found

    def _describe(self, images: Sequence[Image]) -> list[str]:
        import torch

        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self._model.generate(
                pixel_values=pixels.to(self._device, self._dtype),
                max_new_tokens=LONGEST,
                num_beams=BEAMS,
                do_sample=False,
            )
        texts = self._tokens.batch_decode(tokens, skip_special_tokens=True)
        return [plain_caption(text) for text in texts]


def plain_caption(text: str) -> str:
    """A generated text as a caption: one line, words repeated in a row once; or nothing.

    Small captioners stutter ("a cat cat cat"); of fewer than two different words none is kept.
    """
    text = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text)
    words: list[str] = []
    for word in text.split():
        if not words or words[-1] != word:
            words.append(word)
    return " ".join(words) if len(set(words)) >= LEAST else ""


def captioner(profile: Profile) -> Captioner | None:
    """The role ``captioner``; None for kind ``composed``, which has no model of its own.

    Raises:
        ConfigurationError: a kind there is no code for.
        ModelError: the model is missing, damaged, or no safetensors.
    """
    entry = profile.role("captioner")
    if entry.kind == "composed":
        return None
    if entry.kind == "blip":
        return BlipCaptioner(entry)
    msg = f"role captioner can't be filled by kind {entry.kind!r}; use blip or composed"
    raise ConfigurationError(msg)
