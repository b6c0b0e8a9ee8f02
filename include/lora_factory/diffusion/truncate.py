"""A LoRA cut to lower ranks: each layer keeps the singular directions that hold its energy.

The best approximation of a rank in the Frobenius norm (Eckart & Young 1936), taken layer by layer
as kohya's ``resize_lora --dynamic_method sv_fro`` does, without ever forming a full matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_factory.diffusion.lora_file import Pair

if TYPE_CHECKING:
    from torch import Tensor


def truncate(layers: Mapping[str, Pair], energy: float) -> dict[str, Pair]:
    """Each layer at the lowest rank that keeps ``energy`` of its change.

    Args:
        layers: name → update, strength included.
        energy: share of the squared Frobenius norm of ``up @ down`` that stays, in (0, 1]; 1
            drops only what is numerically nothing.

    Returns:
        The same layers, each of its own rank (at least 1), balanced: both factors of a layer
        carry the root of its singular values. float32.
    """
    return {name: _truncated(pair, energy) for name, pair in layers.items()}


def rank_header(metadata: Mapping[str, str], layers: Mapping[str, Pair]) -> dict[str, str]:
    """A file's header with the largest rank of ``layers`` as kohya's tools read it."""
    rank = str(max(int(pair.down.shape[0]) for pair in layers.values()))
    return {**metadata, "ss_network_dim": rank, "ss_network_alpha": rank}


def _truncated(pair: Pair, energy: float) -> Pair:
    down, up = pair.down.float().flatten(1), pair.up.float().flatten(1)
    left, singular, right = _svd(up, down)
    rank = rank_for(singular, energy)
    root = singular[:rank].sqrt()
    new_up = left[:, :rank] * root
    new_down = root[:, None] * right[:rank]
    return Pair(
        new_down.reshape(rank, *pair.down.shape[1:]).contiguous(),
        new_up.reshape(pair.up.shape[0], rank, *pair.up.shape[2:]).contiguous(),
    )


def _svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``up @ down``, from the small matrix between their orthonormal bases."""
    import torch

    out_basis, out_part = torch.linalg.qr(up)
    in_basis, in_part = torch.linalg.qr(down.T)
    left, singular, right = torch.linalg.svd(out_part @ in_part.T, full_matrices=False)
    return out_basis @ left, singular, right @ in_basis.T


def rank_for(singular: Tensor, energy: float) -> int:
    """Fewest leading singular values (descending) whose squares hold ``energy`` of the whole."""
    squares = singular.double() ** 2
    total = float(squares.sum())
    if total == 0.0:
        return 1
    held = squares.cumsum(0) / total
    # A hair below, since the sum of all is 1 only up to rounding.
    return min(int((held < energy - 1e-9).sum()) + 1, len(singular))
