"""Profile ``standard``, small: pulled from a hub, then every role works with no network."""

from __future__ import annotations

import json

import httpx2
import numpy as np
import pytest
from PIL import Image

from hub_site import Site
from lora_factory.commands import profile as command
from lora_factory.contracts.settings import Settings
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ModelError, SpecError
from lora_factory.label.trigger import check_trigger, load_tokenizers
from lora_factory.models import loaders
from lora_factory.models.captioners import captioner
from lora_factory.models.content_filters import content_filter
from lora_factory.models.profiles import load_profile


@pytest.fixture
def pulled(standard_like: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Pulled; whoever asks the network for anything after that fails, though it isn't off."""

    def refuse(_: object, request: httpx2.Request, **__: object) -> None:
        pytest.fail(f"{request.url} was asked for")

    assert standard_like.pull() == {}
    monkeypatch.setattr(httpx2.Client, "send", refuse)
    return standard_like


def test_all_roles_and_bases_work_without_a_network(pulled: Site) -> None:
    profile = pulled.profile()
    pictures = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    vectors = loaders.text_embedder(profile).encode(["a red house", "a blue dog"])
    assert vectors.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    scorer = loaders.image_text_scorer(profile)
    assert scorer.embed_images(pictures).shape == scorer.embed_texts(["a", "b"]).shape == (2, 16)
    topics = loaders.topic_classifier(profile)
    assert isinstance(topics, loaders.ZeroShotTopics)
    scores = topics.scores(["a page of text", "another one"], ["birds", "taxes", "icons"])
    assert scores.shape == (2, 3)
    assert ((scores > 0) & (scores < 1)).all()
    describe = captioner(profile)
    assert describe is not None
    assert len(describe.captions(pictures)) == 2
    assert content_filter(profile).scores(pictures).max() < 0.01
    for domain, family in (("art", "sdxl"), ("photo", "sd1"), ("anime", "sd1")):
        entry = profile.base(None, domain)
        assert entry.family == family
        (image,) = load_base(entry).generate(
            [GenerationRequest("a red house", 1)], steps=1, guidance=2.0
        )
        assert image.size == (64, 64)
    unknown = profile.base("sdxl", "art").model_copy(update={"family": "sd9"})
    with pytest.raises(ModelError, match="unknown family 'sd9'; this version knows: sd1, sdxl"):
        load_base(unknown)


def test_a_trigger_word_is_checked_against_every_base(pulled: Site) -> None:
    profile = pulled.profile()
    tokenizers = load_tokenizers(profile)
    assert set(tokenizers) == set(profile.bases) == {"sdxl", "sd15", "waifu"}
    check_trigger("zuvok", tokenizers, set())
    with pytest.raises(SpecError, match="'dog' is a single token of base 'sdxl'"):
        check_trigger("dog", tokenizers, set())


def test_an_xl_base_is_pulled_whole(pulled: Site) -> None:
    files = pulled.lock().bases["sdxl"].files
    assert {path.partition("/")[0] for path in files} == {
        "model_index.json",
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "unet",
        "vae",
    }
    heavy = [path for path in files if path.endswith(".safetensors")]
    assert len(heavy) == 4
    assert all(".fp16." in path for path in heavy)


def test_check_says_what_standard_is(
    pulled: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_factory import __main__ as cli

    monkeypatch.setenv("LORA_FACTORY_PROFILES", str(pulled.settings.profiles))
    assert cli.main(["profile", "check", "mine", "--json"]) == 0
    models = {m["name"]: m for m in json.loads(capsys.readouterr().out)["models"]}
    assert {m["state"] for m in models.values()} <= {"verified", "no files"}
    assert {m["files"] for m in models.values()} <= {"safetensors", "onnx", ""}
    assert models["roles.topic_classifier"]["kind"] == "zero-shot-classification"
    assert models["roles.labeler"]["model"] == "an endpoint, LORA_FACTORY_LLM_URL"
    assert not models["bases.waifu"]["pinned"]
    assert all(m["pinned"] for name, m in models.items() if name != "bases.waifu")
    assert all(m["licence"] for m in models.values() if m["state"] == "verified")


def test_the_shipped_profile_refuses_models_with_other_weights(standard_like: Site) -> None:
    """A hub that serves small models under the names of the real ones is found out."""
    settings = standard_like.settings
    profile = load_profile("standard", settings)
    from lora_factory.models.profiles import lock_file
    from lora_factory.models.pull import pull

    failed = pull(profile, lock_file("standard", settings, write=True), only=["text_embedder"])
    assert "model.safetensors is pinned to sha256 53aa51172d14…" in failed["roles.text_embedder"]
    with pytest.raises(ModelError, match="is not on this machine"):
        loaders.text_embedder(load_profile("standard", settings))


def test_standard_names_a_commit_wherever_one_is_known() -> None:
    profile = load_profile("standard", Settings())
    entries = {**profile.roles, **profile.bases}
    branches = {n for n, e in entries.items() if e.model is not None and len(e.revision) != 40}
    assert branches == {"waifu"}
    assert command.HELP
