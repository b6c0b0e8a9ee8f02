"""Profiles: what is refused, and with which words; roles load and do their job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError, SpecError
from lora_factory.models import loaders, profiles
from lora_factory.models.profiles import BaseEntry, ModelRef, Profile, load_profile


@pytest.fixture(scope="module")
def embedded() -> Profile:
    return load_profile("embedded", Settings())


def test_both_profiles_of_the_package_can_be_read() -> None:
    for name in ("embedded", "standard"):
        profile = load_profile(name, Settings())
        needed = {"text_embedder", "image_text_scorer", "topic_classifier", "content_filter"}
        assert needed <= set(profile.roles)


@pytest.mark.parametrize("name", ["huge", "../profiles/embedded", "", "embedded.toml"])
def test_an_unknown_profile_lists_the_known(name: str) -> None:
    with pytest.raises(SpecError, match="choose one of: embedded, standard"):
        load_profile(name, Settings())


def test_an_operators_profile_is_found_and_its_mistakes_named(tmp_path: Path) -> None:
    settings = Settings(profiles=tmp_path)
    (tmp_path / "own.toml").write_text("roles = {}\nbases = {}\nextra = 1\n")
    with pytest.raises(ConfigurationError, match="extra: Extra inputs are not permitted"):
        load_profile("own", settings)
    (tmp_path / "own.toml").write_text("roles = {\n")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_profile("own", settings)


def test_bases_by_name_and_by_domain(embedded: Profile) -> None:
    assert embedded.base(None, "photo").name == "emoji"
    with pytest.raises(SpecError, match="choose one of: emoji"):
        embedded.base("sdxl", "art")
    with pytest.raises(ConfigurationError, match=r"\[roles.dreamer\]"):
        embedded.role("dreamer")


def test_a_revision_follows_the_bytes(tmp_path: Path) -> None:
    def revision(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(text)
        return ModelRef(path=str(tmp_path / folder)).resolve_revision()

    assert revision("a", "{}") == revision("b", "{}") != revision("c", "{ }")
    assert ModelRef(model="a/b", revision="r1").resolve_revision() == "a/b@r1"


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        ModelRef(path="nowhere").location()
    with pytest.raises(ModelError, match="pip install"):
        ModelRef(package="no_such_wheel:model").location()


def test_a_damaged_model_is_a_model_error(tmp_path: Path, embedded: Profile) -> None:
    (tmp_path / "config.json").write_text("{}")
    entry = embedded.role("image_text_scorer").model_copy(update={"path": str(tmp_path)})
    with pytest.raises(ModelError, match="check the profile") as caught:
        loaders.ClipScorer(entry)
    assert "\n" not in str(caught.value)


def test_the_scorer_tells_red_from_blue(embedded: Profile) -> None:
    scorer = loaders.image_text_scorer(embedded)
    images = [Image.new("RGB", (90, 60), color) for color in ("red", "blue")]
    vectors = scorer.embed_images(images)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    matched = vectors @ scorer.embed_texts(["red heart", "blue heart"]).T
    assert np.trace(matched) > np.trace(matched[::-1])
    assert scorer.embed_images([]).shape == (0, vectors.shape[1])
    assert scorer.embed_texts(["word " * 500]).shape == (1, vectors.shape[1])


def test_topics_by_embedding(embedded: Profile) -> None:
    classifier = loaders.topic_classifier(embedded)
    scores = classifier.scores(["a ripe apple and a pear", "income tax law"], ["fruit", "taxes"])
    assert scores.shape == (2, 2)
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]


def test_a_base_entry_needs_a_known_family() -> None:
    with pytest.raises(ValueError, match="family"):
        BaseEntry.model_validate({"family": "gan", "domains": ["art"]})


def test_revisions_of_optional_roles_and_of_files(
    embedded: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = embedded.revisions(("image_text_scorer?", "preference_scorer?"))
    assert filled == embedded.revisions(("image_text_scorer",))
    monkeypatch.setattr(profiles, "PACKAGE", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "scale.json").write_text("{}")
    one, two = (embedded.revisions((f"files:{name}",)) for name in ("one", "two"))
    assert one["files:one"] != two["files:two"]
