"""Truncation against the plain SVD of the full matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_factory.diffusion.lora_file import Pair
from lora_factory.diffusion.truncate import rank_for, truncate


def pair(out: int, inside: int, rank: int, seed: int, kernel: int = 0) -> Pair:
    draw = torch.Generator().manual_seed(seed)
    point = (kernel, kernel) if kernel else ()
    ones = (1, 1) if kernel else ()
    return Pair(
        torch.randn((rank, inside, *point), generator=draw),
        torch.randn((out, rank, *ones), generator=draw),
    )


def change(found: Pair) -> torch.Tensor:
    return found.up.flatten(1) @ found.down.flatten(1)


def test_the_rank_is_the_fewest_values_that_hold_the_energy() -> None:
    singular = torch.tensor([4.0, 3.0, 0.0])  # squares 16, 9, 0
    assert [rank_for(singular, share) for share in (0.1, 0.64, 0.65, 1.0)] == [1, 1, 2, 2]
    assert rank_for(torch.zeros(4), 0.9) == 1


def test_a_product_of_known_values_is_cut_where_it_should_be() -> None:
    # up @ down = diag(3, 1): 90% of the energy is in the first direction.
    known = Pair(torch.eye(2), torch.diag(torch.tensor([3.0, 1.0])))
    cut = truncate({"layer": known}, 0.9)["layer"]
    assert cut.down.shape == (1, 2)
    assert torch.allclose(change(cut), torch.diag(torch.tensor([3.0, 0.0])), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(2, 20),
    inside=st.integers(2, 20),
    rank=st.integers(1, 12),
    energy=st.floats(0.05, 1.0),
    kernel=st.sampled_from([0, 3]),
    seed=st.integers(0, 999),
)
def test_what_stays_is_the_best_of_its_rank(
    out: int, inside: int, rank: int, energy: float, kernel: int, seed: int
) -> None:
    whole = pair(out, inside, rank, seed, kernel)
    cut = truncate({"layer": whole}, energy)["layer"]
    full = change(whole)
    kept = cut.down.shape[0]
    assert kept <= min(rank, *full.shape)
    left, singular, right = torch.linalg.svd(full, full_matrices=False)
    best = left[:, :kept] @ torch.diag(singular[:kept]) @ right[:kept]
    scale = float(full.norm())
    assert float((change(cut) - best).norm()) <= 1e-3 * scale
    assert float(change(cut).norm() ** 2) >= (energy - 1e-3) * scale**2
    assert cut.down.shape[1:] == whole.down.shape[1:]
    assert cut.up.shape[2:] == whole.up.shape[2:]


def test_one_keeps_the_change() -> None:
    whole = pair(16, 12, 8, 3)
    cut = truncate({"layer": whole}, 1.0)["layer"]
    assert torch.allclose(change(cut), change(whole), atol=1e-4)


@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_a_layer_that_changes_nothing_stays_at_rank_one(energy: float) -> None:
    none = Pair(torch.randn(4, 6), torch.zeros(5, 4))
    cut = truncate({"layer": none}, energy)["layer"]
    assert cut.down.shape == (1, 6)
    assert float(change(cut).abs().max()) == 0.0
