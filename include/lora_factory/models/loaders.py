"""Loaders: a role's entry in the profile → an object with the role's methods.

One loader for small and big models alike; nothing here knows which profile is on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.cache import verify
from lora_factory.models.profiles import ModelRef, Profile, RoleModel

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.settings import Settings
    from lora_factory.models.roles import ImageTextScorer, TextEmbedder, TopicClassifier, Vectors

log = logging.getLogger(__name__)
T = TypeVar("T")
# transformers builds a model on the meta device of the whole process before it fills it: a model
# that another thread loads meanwhile may be left there ("Cannot copy out of meta tensor").
_ONE_AT_A_TIME = threading.RLock()


def device() -> str:
    """``cuda``, ``mps`` or ``cpu``: the best this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def limit_threads(settings: Settings) -> int:
    """Let torch use ``settings.threads`` CPU threads (0: all cores); returns how many."""
    import torch

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    return int(torch.get_num_threads())


def pretrained(loader: Callable[..., T], ref: ModelRef, **kwargs: Any) -> T:
    """Call a ``from_pretrained`` on local files; those of a hub model are verified first.

    Raises:
        ModelError: files are missing, damaged, not those of the lock, or of another family.
    """
    from safetensors import SafetensorError

    where = ref.location()
    if ref.locked is not None:
        verify(ref.locked, kwargs.get("subfolder", ""))
    try:
        with _ONE_AT_A_TIME:
            return loader(where, **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as err:
        msg = f"model {where} can't be loaded: {str(err).splitlines()[0]}; check the profile"
        raise ModelError(msg) from err


class MiniLMEmbedder:
    """Role ``text_embedder`` by sentence-transformers (article, 2.1: all-MiniLM-L6-v2)."""

    def __init__(self, entry: RoleModel) -> None:
        from sentence_transformers import SentenceTransformer

        self._batch = entry.batch_size
        self._model = pretrained(
            SentenceTransformer,
            entry,
            device=device(),
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """n texts → n×d float32, rows of unit length."""
        import numpy as np

        if not texts:
            width = self._model.get_embedding_dimension() or 0
            return np.zeros((0, width), dtype=np.float32)
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)


class ClipScorer:
    """Role ``image_text_scorer`` by CLIP (Radford et al. 2021, arXiv 2103.00020)."""

    def __init__(self, entry: RoleModel) -> None:
        import torch
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

        self.name = f"{entry.path or entry.model or entry.package}@{entry.resolve_revision()}"
        self._batch = entry.batch_size
        self._device = device()
        model = pretrained(
            CLIPModel.from_pretrained, entry, use_safetensors=True, dtype=torch.float32
        )
        self._model = model.to(self._device).eval()
        self._images = pretrained(CLIPImageProcessorPil.from_pretrained, entry)
        self._tokens = pretrained(CLIPTokenizerFast.from_pretrained, entry)
        self._limit = model.config.text_config.max_position_embeddings
        self.logit_scale = float(model.logit_scale.detach().exp())

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n×d float32, rows of unit length."""
        return self._embed(
            images,
            lambda part: self._images(images=list(part), return_tensors="pt"),
            self._model.get_image_features,
        )

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """n texts (cut at the model's limit) → n×d float32, rows of unit length."""
        return self._embed(
            texts,
            lambda part: self._tokens(
                list(part),
                padding=True,
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
            ),
            self._model.get_text_features,
        )

    def _embed(
        self, items: Sequence[Any], encode: Callable[..., Any], features: Callable[..., Any]
    ) -> Vectors:
        import numpy as np
        import torch

        parts = [np.zeros((0, self._model.config.projection_dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(items), self._batch):
                batch = encode(items[start : start + self._batch]).to(self._device)
                vectors = features(**batch).pooler_output
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
                parts.append(vectors.float().cpu().numpy())
        return np.concatenate(parts)


class EmbeddingTopics:
    """Role ``topic_classifier`` by cosine of sentence embeddings; no model of its own."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> Vectors:
        """n texts, t topics → n×t cosines."""
        scores: Vectors = self._embedder.encode(texts) @ self._embedder.encode(topics).T
        return scores


class ZeroShotTopics:
    """Role ``topic_classifier`` by an NLI model (article, 1.1: bart-large-mnli)."""

    def __init__(self, entry: RoleModel) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        model = pretrained(
            AutoModelForSequenceClassification.from_pretrained, entry, use_safetensors=True
        )
        tokenizer = pretrained(AutoTokenizer.from_pretrained, entry)
        self._batch = entry.batch_size
        self._pipe = pipeline(
            "zero-shot-classification", model=model, tokenizer=tokenizer, device=device()
        )

    def scores(self, texts: Sequence[str], topics: Sequence[str]) -> Vectors:
        """n texts, t topics → n×t entailment probabilities."""
        import numpy as np

        found = np.zeros((len(texts), len(topics)), dtype=np.float32)
        if not len(texts):
            return found
        answers = self._pipe(list(texts), list(topics), multi_label=True, batch_size=self._batch)
        for row, answer in enumerate(answers):
            for label, score in zip(answer["labels"], answer["scores"], strict=True):
                found[row, list(topics).index(label)] = score
        return found


def text_embedder(profile: Profile) -> TextEmbedder:
    """Load the role ``text_embedder``."""
    return MiniLMEmbedder(profile.role("text_embedder"))


def image_text_scorer(profile: Profile) -> ImageTextScorer:
    """Load the role ``image_text_scorer``."""
    return ClipScorer(profile.role("image_text_scorer"))


def topic_classifier(profile: Profile) -> TopicClassifier:
    """Load the role ``topic_classifier``."""
    entry = profile.role("topic_classifier")
    if entry.kind == "embedding":
        return EmbeddingTopics(text_embedder(profile))
    if entry.kind == "zero-shot-classification":
        return ZeroShotTopics(entry)
    msg = f"role topic_classifier can't be filled by kind {entry.kind!r}"
    raise ConfigurationError(msg)
