"""The captioner role: a randomly made BLIP of the real class, loaded as a big one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.models.captioners import captioner, plain_caption
from lora_factory.models.profiles import Profile, RoleModel, load_profile
from lora_factory.models.roles import Captioner
from tiny_blip import SPECIAL, WORDS, make_blip


def profile(**entry: object) -> Profile:
    role = RoleModel.model_validate({"kind": "blip", "batch_size": 2, **entry})
    return Profile(name="own", roles={"captioner": role}, bases={})


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (20 + 9 * n, 40, 3), dtype=np.uint8))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("models") / "blip")


@pytest.fixture(scope="module")
def loaded(blip: Path) -> Captioner:
    found = captioner(profile(path=str(blip)))
    assert found is not None
    return found


def test_every_picture_gets_a_caption_of_the_models_words(loaded: Captioner) -> None:
    captions = loaded.captions(pictures(5))
    assert len(captions) == 5
    assert len(set(captions)) > 1
    for caption in captions:
        assert set(caption.split()) <= {*WORDS}
        assert not any(special.lower() in caption for special in SPECIAL)


def test_batches_give_what_single_pictures_give(loaded: Captioner) -> None:
    images = pictures(5)
    assert loaded.captions(images) == [loaded.captions([image])[0] for image in images]
    assert loaded.captions([]) == []


def test_half_precision_is_left_to_machines_that_have_it(blip: Path) -> None:
    found = captioner(profile(path=str(blip), dtype="float16"))
    assert found is not None
    assert len(found.captions(pictures(1))) == 1


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = make_blip(tmp_path / "pickled", safe=False)
    with pytest.raises(ModelError, match="can't be loaded"):
        captioner(profile(path=str(folder)))


def test_damaged_and_foreign_models_are_refused(tmp_path: Path) -> None:
    folder = make_blip(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="can't be loaded"):
        captioner(profile(path=str(folder)))
    with pytest.raises(ModelError, match="does not exist"):
        captioner(profile(path=str(tmp_path / "none")))
    with pytest.raises(ConfigurationError, match="can't be filled by kind 'clip'"):
        captioner(profile(kind="clip", path=str(folder)))


def test_the_profiles_fill_the_role() -> None:
    assert captioner(load_profile("embedded", Settings())) is None
    entry = load_profile("standard", Settings()).role("captioner")
    assert entry.kind == "blip"
    assert len(entry.revision) == 40


def test_stutters_and_single_words_are_no_captions() -> None:
    assert plain_caption("a cat cat cat on\x00a  table") == "a cat on a table"
    assert plain_caption("cat cat cat") == ""
    assert plain_caption("") == ""
