"""Vectors of 64 bytes for numba kernels: 8 float64 or 16 float32 that live in a register.

numba has no vector type: it leaves loops to LLVM's vectoriser, which tests at every short loop whether the arrays overlap and
keeps sums in memory. These few operations say what is meant. `load` and `store` count in vectors, so no address needs a
multiplication by the number of lanes. Machines with shorter registers use two or four of them for one vector.

Nothing here may be reordered: code that numba has just compiled and the same code read back from the disk are optimised in
different company, and a seed has to lead to the same digits in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

intrinsic: Any = numba_intrinsic  # its own type would have callers pass the typing context
BYTES = 64


def width(dtype: np.dtype | type) -> int:
    """The lanes of one vector of a floating dtype."""
    return BYTES // np.dtype(dtype).itemsize


def aligned(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Uninitialised memory whose vectors do not straddle cache lines."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + BYTES, dtype=np.uint8)
    first = -raw.ctypes.data % BYTES
    return raw[first : first + size].view(dtype).reshape(shape)


class Vector(types.Type):
    """The numba type of a vector."""

    def __init__(self, scalar: Any) -> None:
        self.scalar = scalar
        self.lanes = BYTES // (scalar.bitwidth // 8)
        super().__init__(name=f"Vector({scalar} x {self.lanes})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: object, kind: Vector) -> None:
        scalar = ir.DoubleType() if kind.scalar.bitwidth == 64 else ir.FloatType()
        super().__init__(manager, kind, ir.VectorType(scalar, kind.lanes))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, place: Any, vector: Vector) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, context.get_value_type(vector).as_pointer()), [place], inbounds=True)


@intrinsic
def load(typing, array, place):  # type: ignore[no-untyped-def]
    """Vector number `place` of a flat contiguous array."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], index, vector)
        return builder.load(pointer, align=vector.scalar.bitwidth // 8)

    return vector(array, place), generate


@intrinsic
def store(typing, array, place, value):  # type: ignore[no-untyped-def]
    """Write vector number `place` of a flat contiguous array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], index, value)
        builder.store(arguments[2], pointer, align=value.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, place, value), generate


@intrinsic
def splat(typing, array, number):  # type: ignore[no-untyped-def]
    """The same number in every lane, of the dtype of `array`."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector)
        scalar = context.cast(builder, arguments[1], signature.args[1], vector.scalar)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
        return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)

    return vector(array, number), generate


def _unary(emit: Callable) -> Any:
    def operation(typing, x):  # type: ignore[no-untyped-def]
        return x(x), lambda context, builder, signature, arguments: emit(builder, *arguments)

    return intrinsic(operation)


def _binary(emit: Callable) -> Any:
    def operation(typing, x, y):  # type: ignore[no-untyped-def]
        return x(x, y), lambda context, builder, signature, arguments: emit(builder, *arguments)

    return intrinsic(operation)


def _ternary(emit: Callable) -> Any:
    def operation(typing, x, y, z):  # type: ignore[no-untyped-def]
        return x(x, y, z), lambda context, builder, signature, arguments: emit(builder, *arguments)

    return intrinsic(operation)


def _llvm(name: str) -> Callable:
    def emit(builder: Any, *values: Any) -> Any:
        kind = values[0].type
        suffix = f".v{kind.count}f{64 if isinstance(kind.element, ir.DoubleType) else 32}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(values)), name + suffix)
        return builder.call(function, values)

    return emit


add = _binary(lambda builder, x, y: builder.fadd(x, y))
subtract = _binary(lambda builder, x, y: builder.fsub(x, y))
multiply = _binary(lambda builder, x, y: builder.fmul(x, y))
divide = _binary(lambda builder, x, y: builder.fdiv(x, y))
largest = _binary(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))
smallest = _binary(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", x, y), x, y))
# z + x y and z - x y: one instruction where there is one
plus_product = _ternary(_llvm("llvm.fmuladd"))
minus_product = _ternary(lambda builder, x, y, z: _llvm("llvm.fmuladd")(builder, builder.fneg(x), y, z))
square_root = _unary(_llvm("llvm.sqrt"))
nearest = _unary(_llvm("llvm.rint"))
