"""Optional roles that judge pictures as people might: aesthetics and preference.

A profile that fills neither has neither metric. Both are reported and enter no score:
nobody calibrated them on this factory's users.

=====================  =====================  =================================================
role                   kind                   model
=====================  =====================  =================================================
``preference_scorer``  ``clip-preference``    a CLIPModel fine-tuned on choices between two
                                              pictures of a prompt (PickScore: Kirstain et al.
                                              2023, arXiv 2305.01569)
``aesthetic_scorer``   ``aesthetic``          an image classifier of transformers, with one
                                              output (the score) or a label ``aesthetic``
=====================  =====================  =================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.loaders import ClipScorer, device, pretrained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.models.profiles import Profile, RoleModel

    Scores = NDArray[np.float64]

PREFERENCE, AESTHETIC = "preference_scorer", "aesthetic_scorer"


class PictureJudge(Protocol):
    """Scores pictures."""

    name: str
    unit: str

    @property
    def metric(self) -> Literal["aesthetic", "preference"]:
        """The metric's name in a report."""

    def scores(self, images: Sequence[Image], prompts: Sequence[str]) -> Scores:
        """n RGB images with their prompts → n scores, higher is better."""

    def verdict(self, base: Scores, lora: Scores) -> tuple[Scores, str]:
        """Scores of base and LoRA pictures, pair by pair → n values to average, and a note."""


class ClipPreference:
    """Role ``preference_scorer``: which of two pictures people would choose for a prompt."""

    metric: Literal["preference"] = "preference"
    unit = "chance of being preferred to the base's"

    def __init__(self, entry: RoleModel) -> None:
        self._clip = ClipScorer(entry)
        self.name = self._clip.name

    def scores(self, images: Sequence[Image], prompts: Sequence[str]) -> Scores:
        """Logit scale × cosine: n images with their prompts → n."""
        import numpy as np

        cosines = (self._clip.embed_images(images) * self._clip.embed_texts(prompts)).sum(axis=1)
        return np.asarray(self._clip.logit_scale * cosines, dtype=np.float64)

    def verdict(self, base: Scores, lora: Scores) -> tuple[Scores, str]:
        """Softmax over the two, as the model was trained."""
        import numpy as np

        wins = 1 / (1 + np.exp(np.clip(base - lora, -50, 50)))
        return wins, f"mean score {lora.mean():.2f}, base {base.mean():.2f}; 0.5 is no preference"


class AestheticClassifier:
    """Role ``aesthetic_scorer``: how good a picture looks, whatever it shows."""

    metric: Literal["aesthetic"] = "aesthetic"
    unit = "mean score"

    def __init__(self, entry: RoleModel) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.name = f"{entry.path or entry.model or entry.package}@{entry.resolve_revision()}"
        self._batch, self._device = entry.batch_size, device()
        model = pretrained(
            AutoModelForImageClassification.from_pretrained,
            entry,
            use_safetensors=True,
            dtype=torch.float32,
        )
        labels = {str(name).lower(): int(i) for i, name in model.config.id2label.items()}
        self._label = None if len(labels) == 1 else labels.get("aesthetic")
        if len(labels) > 1 and self._label is None:
            msg = (
                f"role {AESTHETIC}: model {self.name} has labels {', '.join(sorted(labels))}; "
                "it needs one output, or a label called aesthetic"
            )
            raise ModelError(msg)
        self._model = model.to(self._device).eval()
        self._images = pretrained(AutoImageProcessor.from_pretrained, entry, backend="pil")

    def scores(self, images: Sequence[Image], prompts: Sequence[str]) -> Scores:  # noqa: ARG002
        """The one output as it is, or the probability of ``aesthetic``."""
        import numpy as np
        import torch

        found: list[Any] = []
        with torch.inference_mode():
            for start in range(0, len(images), self._batch):
                part = list(images[start : start + self._batch])
                pixels = self._images(images=part, return_tensors="pt").to(self._device)
                logits = self._model(**pixels).logits.float()
                scores = logits[:, 0]
                if self._label is not None:
                    scores = logits.softmax(dim=-1)[:, self._label]
                found += scores.cpu().tolist()
        return np.array(found, dtype=np.float64)

    def verdict(self, base: Scores, lora: Scores) -> tuple[Scores, str]:
        """The LoRA's scores; the base's in the note."""
        return lora, f"base {base.mean():.3f}"


def picture_judges(profile: Profile) -> list[PictureJudge]:
    """Those of the optional roles that a profile fills.

    Raises:
        ConfigurationError: a role is filled by a kind that can't fill it.
        ModelError: a model that the profile names is missing or of another shape.
    """
    found: list[PictureJudge] = []
    loaders: tuple[tuple[str, str, Callable[[RoleModel], PictureJudge]], ...] = (
        (AESTHETIC, "aesthetic", AestheticClassifier),
        (PREFERENCE, "clip-preference", ClipPreference),
    )
    for role, kind, load in loaders:
        if role not in profile.roles:
            continue
        entry = profile.role(role)
        if entry.kind != kind:
            msg = f"role {role} can't be filled by kind {entry.kind!r}; it takes {kind!r}"
            raise ConfigurationError(msg)
        found.append(load(entry))
    return found
