"""How this package compiles its loops with numba: without the interpreter's lock, and kept on the disk.

numba takes kept code for current as long as the file of the function it belongs to is unchanged. Who edits what that function calls in
another file (`simd`, `lane_algebra`, `dense`) has to touch the file too, or the old code runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable:
    """`numba.njit` without the interpreter's lock, the machine code kept on the disk where there is a place for it."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the user's cache folder can be written
            return njit(nogil=True, **options)(function)

    return decorate
