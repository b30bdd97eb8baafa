"""What is refused before anything is computed: unknown dtypes, sizes that do not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stlsearch.devices import available_memory
from stlsearch.errors import InputError
from stlsearch.ops import DTYPES

MAX_SIZE = 2**17  # of one side; beyond it the float64 inputs alone exceed any one machine


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Raise `InputError` unless there is at least one dtype and every one is known."""
    check_names("dtype", dtypes, tuple(DTYPES))


def check_names(noun: str, names: Sequence[str], valid: Sequence[str]) -> None:
    """Raise `InputError` unless there is at least one name and every one is among the valid ones."""
    if not names:
        raise InputError(f"no {noun} given; valid: {', '.join(valid)}")
    for name in names:
        if name not in valid:
            raise InputError(f"unknown {noun} {name!r:.40}; valid: {', '.join(valid)}")


def check_side(size: tuple[int, int, int]) -> None:
    """Raise `InputError` for a side of (M, K, N) below 1 or above `MAX_SIZE`."""
    if min(size) < 1:
        raise InputError(f"sizes must be at least 1, not {' x '.join(map(str, size))}")
    if max(size) > MAX_SIZE:
        raise InputError(f"size {max(size)} is too large; at most {MAX_SIZE}")


def check_memory(size: tuple[int, int, int], needed: int, device: torch.device) -> None:
    """Raise `InputError` when `needed` bytes are more than 90 % of what is free on the device."""
    free = available_memory(device)
    if free is not None and needed > 0.9 * free:
        raise InputError(
            f"size {'x'.join(map(str, size))} needs about {needed / 2**30:.1f} GiB on {device.type}, "
            f"{free / 2**30:.1f} GiB are free; choose a smaller size"
        )
