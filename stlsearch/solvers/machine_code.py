"""How this package compiles its loops with numba: without the interpreter's lock, and kept on the disk.

numba takes kept code for current as long as the file of the function it belongs to is unchanged, whatever became of what that function
calls in other files. So the names under which code is kept contain a hash of every file that mentions numba or this module; constants
that compiled code takes from elsewhere belong in one of those. Code of other sources stays until its folder, `__pycache__`, is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import cfunc, njit, types
from numba.core.registry import cpu_target


def compiled(**options: Any) -> Callable:
    """`numba.njit` without the interpreter's lock, the machine code kept on the disk where there is a place for it."""

    def decorate(function: Callable) -> Callable:
        _rename(function)
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the user's cache folder can be written
            return njit(nogil=True, **options)(function)

    return decorate


def c_function(body: Callable) -> Any:
    """``void body(void *data)`` for threads that know nothing of Python; kept on the disk likewise."""
    _rename(body)
    try:
        return cfunc(types.void(types.voidptr), cache=True)(body)
    except RuntimeError:
        return cfunc(types.void(types.voidptr))(body)


def processor() -> tuple[str, frozenset[str]]:
    """The processor that numba compiles for, this machine's unless NUMBA_CPU_NAME says otherwise: LLVM's name of it, and its features."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return name, frozenset(feature[1:] for feature in features.split(",") if feature.startswith("+"))


def _rename(function: Callable) -> None:
    function.__qualname__ += f"-{_sources()}"


@cache
def _sources() -> str:
    """A hash of every file of the package that has to do with numba."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    return sha256(b"".join(text for text in texts if b"numba" in text or b"machine_code" in text)).hexdigest()[:12]
