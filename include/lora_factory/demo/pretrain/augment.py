"""Looks that the icons don't have: line art, dark grounds and other palettes come later."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

SHIFT = 4  # pixels, each way


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 → float in [−1, 1]."""
    return pixels.float() / 127.5 - 1.0


def shifted(images: Tensor, draw: Generator) -> Tensor:
    """Each of n images moved by up to ``SHIFT`` pixels, white coming in; half of them mirrored."""
    import torch

    padded = torch.nn.functional.pad(images, (SHIFT,) * 4, value=1.0)
    size = images.shape[-1]
    moved = []
    for image in padded:
        top, left, mirror = torch.randint(0, 2 * SHIFT + 1, (3,), generator=draw).tolist()
        cut = image[:, top : top + size, left : left + size]
        moved.append(cut.flip(-1) if mirror % 2 else cut)
    return torch.stack(moved)


def recoloured(images: Tensor, draw: Generator) -> Tensor:
    """Half of n images in grey, inverted, with channels swapped, flatter, or on a coloured ground.

    Values stay in [−1, 1]; shapes stay.
    """
    import torch

    found = images.clone()
    kinds = torch.randint(0, 10, (len(images),), generator=draw).tolist()
    for at, kind in enumerate(kinds):
        image = found[at]
        if kind == 0:
            found[at] = image.mean(0, keepdim=True).expand_as(image)
        elif kind == 1:
            found[at] = -image
        elif kind == 2:
            found[at] = image[torch.randperm(3, generator=draw)]
        elif kind == 3:
            found[at] = image * (0.4 + 0.6 * float(torch.rand(1, generator=draw)))
        elif kind == 4:
            ground = torch.rand((3, 1, 1), generator=draw) * 2 - 1
            white = ((image + 1) / 2).prod(0, keepdim=True).clamp(0, 1) ** 4
            found[at] = image * (1 - white) + ground * white
    return found
