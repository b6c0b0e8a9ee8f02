"""Optional judges, on tiny random models of the real classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.judges import (
    AestheticClassifier,
    ClipPreference,
    picture_judges,
)
from lora_factory.models.profiles import ASSETS, Profile, RoleModel

PROMPTS = ("a red apple", "a boat", "a house")


def pictures(seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(3, 20, 24, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> RoleModel:
    """A CLIPModel as PickScore is one, of random weights, with the small CLIP's tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("preference")
    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(ASSETS / "emoji-clip" / file, folder)
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    own = json.loads((ASSETS / "emoji-clip" / "config.json").read_text())["text_config"]
    kept = ("vocab_size", "max_position_embeddings", "eos_token_id", "bos_token_id", "pad_token_id")
    text = {**tower, **{name: own[name] for name in kept}}
    vision = {**tower, "image_size": 64, "patch_size": 32}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    return RoleModel(kind="clip-preference", path=str(folder), batch_size=2)


def classifier(folder: Path, labels: list[str]) -> RoleModel:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        id2label=dict(enumerate(labels)),
    )
    ViTForImageClassification(config).save_pretrained(folder, safe_serialization=True)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return RoleModel(kind="aesthetic", path=str(folder), batch_size=2)


def profile(**roles: RoleModel) -> Profile:
    return Profile(name="test", roles=roles, bases={})


def test_a_profile_that_fills_neither_role_has_no_judge() -> None:
    assert picture_judges(profile()) == []


def test_preference_is_a_choice_between_two_pictures(preference: RoleModel) -> None:
    (judge,) = picture_judges(profile(preference_scorer=preference))
    assert isinstance(judge, ClipPreference)
    base, lora = (judge.scores(pictures(seed), PROMPTS) for seed in (0, 1))
    assert base.shape == (3,)
    assert np.abs(base).max() <= 101  # logit scale × cosine
    wins, note = judge.verdict(base, lora)
    assert wins == pytest.approx(1 - judge.verdict(lora, base)[0])
    assert wins == pytest.approx(np.exp(lora) / (np.exp(lora) + np.exp(base)))
    assert judge.verdict(base, base)[0] == pytest.approx(0.5)
    assert "0.5 is no preference" in note


def test_preference_needs_the_prompt(preference: RoleModel) -> None:
    judge = ClipPreference(preference)
    other = judge.scores(pictures(0), ("a boat", "a house", "a red apple"))
    assert judge.scores(pictures(0), PROMPTS) != pytest.approx(other)


def test_aesthetics_by_one_output(tmp_path: Path) -> None:
    (judge,) = picture_judges(profile(aesthetic_scorer=classifier(tmp_path, ["score"])))
    assert isinstance(judge, AestheticClassifier)
    found = judge.scores(pictures(0), PROMPTS)
    assert found.shape == (3,)
    assert found == pytest.approx(judge.scores(pictures(0), ("",) * 3))
    assert judge.verdict(found - 1, found)[0] == pytest.approx(found)


def test_aesthetics_by_a_label(tmp_path: Path) -> None:
    judge = AestheticClassifier(classifier(tmp_path, ["not_aesthetic", "Aesthetic"]))
    found = judge.scores(pictures(0), PROMPTS)
    assert ((found > 0) & (found < 1)).all()


def test_a_classifier_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has labels cat, dog; it needs"):
        AestheticClassifier(classifier(tmp_path, ["cat", "dog"]))


def test_a_model_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    gone = RoleModel(kind="clip-preference", path=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="does not exist"):
        picture_judges(profile(preference_scorer=gone))


def test_a_kind_that_cannot_fill_the_role() -> None:
    wrong = RoleModel(kind="clip", path="emoji-clip")
    with pytest.raises(ConfigurationError, match="aesthetic_scorer can't be filled by kind 'clip'"):
        picture_judges(profile(aesthetic_scorer=wrong))
