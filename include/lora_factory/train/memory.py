"""Telling that memory ran out, and giving back what can be given back."""

from __future__ import annotations

import gc

SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on whatever device."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)


def free_memory() -> None:
    """Give what nobody holds back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
