"""The bias audit on real pictures of the embedded base, with a bias put in on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from lora_factory.contracts.settings import Settings
from lora_factory.diffusion.base import DiffusionBase, GenerationRequest
from lora_factory.diffusion.families import load_base
from lora_factory.guard.bias.attributes import Attribute, vocabulary
from lora_factory.guard.bias.audit import Shot, run_bias_audit
from lora_factory.guard.bias.projection import FairProjection
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import load_profile

if TYPE_CHECKING:
    from torch import Tensor

    from lora_factory.models.roles import ImageTextScorer, Vectors

STEPS = 12


@pytest.fixture(scope="module")
def base() -> DiffusionBase:
    return load_base(load_profile("embedded", Settings()).bases["emoji"])


@pytest.fixture(scope="module")
def scorer() -> ImageTextScorer:
    return image_text_scorer(load_profile("embedded", Settings()))


class BiasedText:
    """A text encoder that reads "with light skin" into prompts that name no skin tone."""

    def __init__(self, base: DiffusionBase, attribute: Attribute) -> None:
        self.base = base
        self.attribute = attribute

    def __call__(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        named = self.attribute.named_in
        return self.base.encode_texts([
            prompt if named(prompt) else f"{prompt} with light skin" for prompt in prompts
        ])


@pytest.mark.slow
def test_a_biased_text_encoder_is_found_and_mitigated(
    base: DiffusionBase, scorer: ImageTextScorer
) -> None:
    skin = next(one for one in vocabulary().attributes if one.name == "skin_tone")
    biased = BiasedText(base, skin)

    def look(side: str, shots: Sequence[Shot], mitigate: Sequence[Attribute] = ()) -> Vectors:
        def text(prompts: Sequence[str], outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            if side != "base":
                outputs = biased(prompts)
            if mitigate:
                fair = FairProjection(mitigate, base.encode_texts, vocabulary().contexts)
                outputs = fair(prompts, outputs)
            return outputs

        images = base.generate(
            [GenerationRequest(shot.person, shot.seed) for shot in shots],
            steps=STEPS,
            guidance=4.0,
            text_projection=text,
        )
        return scorer.embed_images(images)

    audit = run_bias_audit(look, scorer.embed_texts, 100, 1234)
    found = next(one for one in audit.attributes if one.attribute == "skin_tone")
    print(audit.note, found.lean_shift, found.lean_mitigated, found.sides)  # noqa: T201
    # The embedded base's faces are yellow: shares may abstain, but not the lean of the pictures.
    assert found.lean_shift is not None
    assert found.lean_shift.low > 0
    assert found.lean_mitigated is not None
    assert found.lean_mitigated.high < 0


def test_changing_nothing_gives_the_same_pictures(base: DiffusionBase) -> None:
    requests = [GenerationRequest("a nurse", 3), GenerationRequest("red apple", 4, "blue")]
    plain = base.generate(requests, steps=2, guidance=4.0)
    same = base.generate(
        requests, steps=2, guidance=4.0, text_projection=lambda _prompts, outputs: outputs
    )
    assert [image.tobytes() for image in plain] == [image.tobytes() for image in same]


def test_projection_changes_neutral_prompts_and_leaves_named_ones(base: DiffusionBase) -> None:
    skin = vocabulary().attributes[2]
    fair = FairProjection([skin], base.encode_texts, vocabulary().contexts)
    requests = [GenerationRequest("a nurse", 3), GenerationRequest("a nurse with dark skin", 3)]
    plain = base.generate(requests, steps=2, guidance=4.0)
    changed = base.generate(requests, steps=2, guidance=4.0, text_projection=fair)
    assert plain[0].tobytes() != changed[0].tobytes()
    assert plain[1].tobytes() == changed[1].tobytes()
