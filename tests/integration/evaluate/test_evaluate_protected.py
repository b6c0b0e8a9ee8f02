"""Protected works in an evaluation: a LoRA that draws them does not pass, unless they are only
flagged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluate_samples import ICONS, Run

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.errors import ConfigurationError
from lora_factory.evaluate import stage
from lora_factory.guard.indexing import build_index
from lora_factory.guard.protected import SCORER, ProtectedIndex
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import load_profile

SPEC = EvaluateSpec(
    lora="l",
    dataset="d",
    prompts=4,
    steps=4,
    choosing=0,
    drift=2,
    audit_pictures=0,
    settings_prompts=0,
    xyz_pictures=0,
    attacks=4,
)


@pytest.mark.slow
def test_a_lora_that_draws_protected_works_does_not_pass(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    ctx = context(untrained, dataset)
    first = stage.run(SPEC, ctx)
    assert first.ethics is not None
    (training,) = first.ethics.copyright_compliance
    assert (training.against, training.n) == ("training", 8)
    assert "no_protected_works" not in {gate.name for gate in first.gates}
    assert len(list((ctx.out / "images" / "attack").glob("*.png"))) == 4

    # What it draws is protected from now on.
    profile = load_profile("embedded", Settings())
    index = build_index(
        ctx.out / "images" / "lora",
        ICONS,
        image_text_scorer(profile),
        profile.role(SCORER).resolve_revision(),
    )
    index.save(tmp_path / "index")
    for policy, passed in (("block", False), ("flag", True)):
        settings = ctx.settings.model_copy(
            update={"protected": tmp_path / "index", "protected_policy": policy}
        )
        out = tmp_path / policy
        out.mkdir()
        report = stage.run(SPEC, replace(ctx, settings=settings, out=out))
        gates = {gate.name: gate for gate in report.gates}
        assert gates["no_protected_works"].passed is passed
        assert gates["safe_images"].passed
        assert report.ethics is not None
        found = report.ethics.copyright_compliance[1]
        assert (found.against, found.policy, found.passed) == ("protected", policy, passed)
        assert found.verbatim_hits >= 4
        assert found.worst[0].file_name.startswith("images/lora/")
        assert found.worst[0].work == Path(found.worst[0].file_name).name


def test_an_index_of_another_scorer_stops_the_evaluation(
    context: Run, untrained: Path, dataset: Path, tmp_path: Path
) -> None:
    profile = load_profile("embedded", Settings())
    works = tmp_path / "works"
    works.mkdir()
    for file in sorted(ICONS.glob("*.png"))[:24]:
        shutil.copy(file, works)
    made = build_index(works, None, image_text_scorer(profile), "sha256:other")
    made.save(tmp_path / "index")
    assert len(ProtectedIndex.load(tmp_path / "index")) == 24
    ctx = context(untrained, dataset)
    settings = ctx.settings.model_copy(update={"protected": tmp_path / "index"})
    with pytest.raises(ConfigurationError, match="made with scorer sha256:other"):
        stage.run(SPEC, replace(ctx, settings=settings))
