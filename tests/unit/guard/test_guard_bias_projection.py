from __future__ import annotations

import numpy as np
import pytest
from bias_toy import ToyWorld, neutral
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.guard.bias.attributes import vocabulary
from lora_factory.guard.bias.projection import (
    FairProjection,
    calibrated_projection,
    clamp_to_fair_space,
    mitigate_bias,
    project_fair_subspace,
)


def test_pinned_by_hand() -> None:
    """d = 3, A = e1, one pair e1 + e2, λ = 2: G = I + 2 (e1+e2)(e1+e2)ᵀ, P* = P0 G⁻¹.

    The upper block of G is [[3, 2], [2, 3]], its inverse [[3, −2], [−2, 3]] / 5.
    """
    found = calibrated_projection(np.array([[1.0, 0, 0]]), np.array([[1.0, 1, 0]]), 2.0)
    assert found == pytest.approx(np.array([[0, 0, 0], [-0.4, 0.6, 0], [0, 0, 1.0]]))


@given(st.integers(0, 10_000), st.floats(0, 1000))
def test_it_minimises_the_papers_objective(seed: int, strength: float) -> None:
    """‖P − P0‖² + λ/|S| Σ ‖P (z_i − z_j)‖²: its gradient at P* is 0 (Chuang et al., lemma 4.2)."""
    rng = np.random.default_rng(seed)
    removed, pairs = rng.normal(size=(2, 6)), rng.normal(size=(4, 6))
    found = calibrated_projection(removed, pairs, strength)
    basis = np.linalg.qr(removed.T)[0]
    orthogonal = np.eye(6) - basis @ basis.T
    gradient = found - orthogonal + strength / 4 * found @ pairs.T @ pairs
    assert np.abs(gradient).max() < 1e-9 * (1 + strength)
    closed = orthogonal @ np.linalg.inv(np.eye(6) + strength / 4 * pairs.T @ pairs)
    assert found == pytest.approx(closed, abs=1e-8)


def test_without_strength_it_is_the_orthogonal_projection() -> None:
    rng = np.random.default_rng(0)
    removed = rng.normal(size=(2, 8))
    found = calibrated_projection(removed, rng.normal(size=(5, 8)), 0.0)
    assert found @ found == pytest.approx(found)
    assert found @ removed.T == pytest.approx(np.zeros((8, 2)), abs=1e-12)


def test_as_strength_grows_the_subspace_of_pairs_goes() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(3, 8))
    left = [
        np.abs(project_fair_subspace(pairs, calibrated_projection(pairs[:1], pairs, s))).max()
        for s in (0, 1e2, 1e6, 1e12)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 1e-9


def test_directions_that_add_nothing_are_left_out() -> None:
    one = np.array([[1.0, 2, 3]])
    twice = np.concatenate([one, 2 * one, np.zeros((1, 3))])
    assert calibrated_projection(twice, one, 5.0) == pytest.approx(
        calibrated_projection(one, one, 5.0)
    )


def test_clamping_restores_the_length_and_stays_in_the_subspace() -> None:
    rng = np.random.default_rng(0)
    removed = rng.normal(size=(1, 8))
    matrix = calibrated_projection(removed, removed, 0.0)
    rows = rng.normal(size=(4, 5, 8))
    fair = mitigate_bias(rows, matrix)
    assert np.linalg.norm(fair, axis=-1) == pytest.approx(np.linalg.norm(rows, axis=-1), rel=1e-6)
    assert fair @ removed[0] == pytest.approx(np.zeros((4, 5)), abs=1e-6)
    assert np.isfinite(clamp_to_fair_space(np.zeros((2, 8)), rows[0, :2])).all()


def fair(*names: str) -> tuple[FairProjection, ToyWorld]:
    world = ToyWorld({"lora": neutral})
    chosen = [one for one in vocabulary().attributes if one.name in names]
    return FairProjection(chosen, world.encode("lora"), vocabulary().contexts), world


def test_every_output_of_every_encoder_is_projected() -> None:
    projection, world = fair("gender_presentation")
    prompts = ["a doctor", "a nurse"]
    outputs = world.encode("lora")(prompts)
    outputs = {name: rows + 0.2 for name, rows in outputs.items()}
    changed = projection(prompts, outputs)
    assert changed["tokens"].shape == (2, 1, 64)
    assert changed["pooled"].shape == (2, 64)
    for name, rows in changed.items():
        assert rows[..., 0] == pytest.approx(np.zeros(rows.shape[:-1]), abs=0.02), name
        assert rows[..., 1] == pytest.approx(outputs[name][..., 1], abs=0.05)  # age is left


def test_prompts_that_name_the_attribute_are_untouched() -> None:
    projection, world = fair("gender_presentation", "age")
    prompts = ["an old woman", "a woman", "a doctor"]
    outputs = world.encode("lora")(prompts)
    changed = projection(prompts, outputs)
    assert (changed["tokens"][0] == outputs["tokens"][0]).all()
    # Gender is named, age isn't: only age is taken out.
    assert changed["pooled"][1, 0] > 0.9 * outputs["pooled"][1, 0] > 0.4
    assert (changed["pooled"][2] != outputs["pooled"][2]).any()


def test_tensors_stay_tensors() -> None:
    torch = pytest.importorskip("torch")
    projection, world = fair("skin_tone")
    prompts = ["a doctor", "a person with dark skin"]
    outputs = {
        name: torch.tensor(rows, dtype=torch.float32)
        for name, rows in world.encode("lora")(prompts).items()
    }
    changed = projection(prompts, outputs)
    assert changed["tokens"].dtype == torch.float32
    assert torch.equal(changed["tokens"][1], outputs["tokens"][1])
    plain = projection(prompts, {name: rows.numpy() for name, rows in outputs.items()})
    assert changed["pooled"].numpy() == pytest.approx(plain["pooled"], abs=1e-5)
