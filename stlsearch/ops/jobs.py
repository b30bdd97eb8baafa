"""What compiled functions need that several threads call at once: a counter that shares out the work, pointers to arrays, and memory."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import BYTES, intrinsic


@intrinsic
def pointer(typing, address):  # type: ignore[no-untyped-def]
    """The address as a pointer."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@intrinsic
def take(typing, data, portion):  # type: ignore[no-untyped-def]
    """Add `portion` to the first word of a job, which all threads share, and return what it was."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        counter = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, arguments[1], "seq_cst")

    return types.intp(data, portion), generate


@compiled()
def buffer(size, kind):  # type: ignore[no-untyped-def]
    """Uninitialised memory whose vectors do not straddle cache lines."""
    memory = np.empty(size + BYTES, kind)
    first = -memory.ctypes.data % BYTES // memory.itemsize
    return memory[first : first + size]
