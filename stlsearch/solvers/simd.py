"""Vectors of 64 bytes for numba kernels: 8 float64, 16 float32 or as many integers as fit that live in a register.

numba has no vector type: it leaves loops to LLVM's vectoriser, which tests at every short loop whether the arrays overlap and
keeps sums in memory. These few operations say what is meant. `load` and `store` count in vectors, so no address needs a
multiplication by the number of lanes; `load_at` and `store_at` begin at any element, and `load_some` and `store_some` end anywhere.
Machines with shorter registers use two or four of them for one vector.

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
        width = kind.scalar.bitwidth
        whole = isinstance(kind.scalar, types.Integer)
        scalar = ir.IntType(width) if whole else ir.DoubleType() if width == 64 else ir.FloatType()
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
def lanes(typing, array):  # type: ignore[no-untyped-def]
    """How many elements of an array fill a vector, a constant."""
    number = Vector(array.dtype).lanes
    return types.intp(array), lambda context, builder, signature, arguments: ir.Constant(ir.IntType(64), number)


def element(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: Any = None) -> Any:
    """A pointer to an element, or to the vector of a kind that begins there."""
    pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return pointer if kind is None else builder.bitcast(pointer, kind.as_pointer())


@intrinsic
def load_at(typing, array, index):  # type: ignore[no-untyped-def]
    """The vector that begins at element `index` of a flat contiguous array."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector)
        pointer = element(context, builder, signature.args[0], arguments[0], arguments[1], kind)
        return builder.load(pointer, align=vector.scalar.bitwidth // 8)

    return vector(array, types.intp), generate


@intrinsic
def store_at(typing, array, index, value):  # type: ignore[no-untyped-def]
    """Write a vector from element `index` of a flat contiguous array on."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = element(context, builder, signature.args[0], arguments[0], arguments[1], arguments[2].type)
        builder.store(arguments[2], pointer, align=value.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), generate


@intrinsic
def load_some(typing, array, index, count):  # type: ignore[no-untyped-def]
    """As `load_at`, but no more than `count` lanes are read, which may be none or negative; the others are zero."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector)
        pointer = element(context, builder, signature.args[0], arguments[0], arguments[1], kind)
        alignment = vector.scalar.bitwidth // 8
        with builder.if_else(_whole(builder, arguments[2], vector)) as (whole, part):
            with whole:
                everything, after_whole = builder.load(pointer, align=alignment), builder.block
            with part:
                mask = _first_lanes(builder, arguments[2], vector)
                some = _masked(builder, "load", kind, kind, pointer, ir.IntType(32)(alignment), mask, ir.Constant(kind, None))
                after_part = builder.block
        value = builder.phi(kind)
        value.add_incoming(everything, after_whole)
        value.add_incoming(some, after_part)
        return value

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store_some(typing, array, index, count, value):  # type: ignore[no-untyped-def]
    """As `store_at`, but no more than `count` lanes are written, which may be none or negative."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, index, count, numbers = arguments
        emit_store_some(context, builder, signature.args[0], array, index, count, numbers, value)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, value), generate


def emit_store_some(context: Any, builder: Any, array_type: Any, array: Any, index: Any, count: Any, value: Any, vector: Vector) -> None:
    """What `store_some` does, within an intrinsic."""
    pointer = element(context, builder, array_type, array, index, value.type)
    alignment = vector.scalar.bitwidth // 8
    with builder.if_else(_whole(builder, count, vector)) as (whole, part):
        with whole:
            builder.store(value, pointer, align=alignment)
        with part:
            mask = _first_lanes(builder, count, vector)
            _masked(builder, "store", ir.VoidType(), value.type, value, pointer, ir.IntType(32)(alignment), mask)


def _whole(builder: Any, count: Any, vector: Vector) -> Any:
    return builder.icmp_signed(">=", count, count.type(vector.lanes))


def _first_lanes(builder: Any, count: Any, vector: Vector) -> Any:
    """The mask of the first `count` lanes, of none if it is negative."""
    bits = ir.IntType(vector.lanes)
    inside = builder.select(builder.icmp_signed(">", count, count.type(0)), count, count.type(0))
    ones = builder.sub(builder.shl(bits(1), builder.trunc(inside, bits)), bits(1))
    return builder.bitcast(ones, ir.VectorType(ir.IntType(1), vector.lanes))


def _masked(builder: Any, name: str, result: Any, kind: Any, *arguments: Any) -> Any:
    suffix = f"v{kind.count}{kind.element.intrinsic_name}.p0"  # v16f32.p0
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.masked.{name}.{suffix}")
    return builder.call(function, arguments)


def in_every_lane(context: Any, builder: Any, scalar: Any, vector: Vector) -> Any:
    kind = context.get_value_type(vector)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)


@intrinsic
def splat(typing, array, number):  # type: ignore[no-untyped-def]
    """The same number in every lane, of the dtype of `array`."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        scalar = context.cast(builder, arguments[1], signature.args[1], vector.scalar)
        return in_every_lane(context, builder, scalar, vector)

    return vector(array, number), generate


@intrinsic
def broadcast(typing, array, index):  # type: ignore[no-untyped-def]
    """Element `index` of a flat contiguous array in every lane; as `splat` of it, but a negative index does not count from the end."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        scalar = builder.load(element(context, builder, signature.args[0], *arguments))
        return in_every_lane(context, builder, scalar, vector)

    return vector(array, types.intp), generate


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


def _shuffle(chosen: Callable[[int], list[int]]) -> Any:
    """Those lanes of two vectors one after the other, by the lanes of one."""

    def emit(builder: Any, x: Any, y: Any) -> Any:
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), x.type.count), chosen(x.type.count)))

    return _binary(emit)


def _alternating(half: int, size: int) -> Callable[[int], list[int]]:
    """Groups of `size` lanes of a half of the one and the other vector in turn."""

    def chosen(count: int) -> list[int]:
        first = half * count // 2
        starts = range(first, first + count // 2, size)
        return [vector * count + start + k for start in starts for vector in (0, 1) for k in range(size)]

    return chosen


def _every_other_pair(first: int) -> Callable[[int], list[int]]:
    return lambda count: [start + k for start in range(first, 2 * count, 4) for k in (0, 1)]


# x0 y0 x1 y1 ... and x0 x1 y0 y1 x2 x3 y2 y3 ..., the first and the second half
alternate, alternate_rest = (_shuffle(_alternating(half, 1)) for half in (0, 1))
alternate_pairs, alternate_pairs_rest = (_shuffle(_alternating(half, 2)) for half in (0, 1))
# x0 x1 x4 x5 ... y0 y1 y4 y5 ... and x2 x3 x6 x7 ... y2 y3 y6 y7 ...
even_pairs, odd_pairs = _shuffle(_every_other_pair(0)), _shuffle(_every_other_pair(2))
add = _binary(lambda builder, x, y: builder.fadd(x, y))
subtract = _binary(lambda builder, x, y: builder.fsub(x, y))
multiply = _binary(lambda builder, x, y: builder.fmul(x, y))
divide = _binary(lambda builder, x, y: builder.fdiv(x, y))
largest = _binary(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))
smallest = _binary(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", x, y), x, y))
# z + x y and z - x y: one instruction where there is one
emit_plus_product = _llvm("llvm.fmuladd")
plus_product = _ternary(emit_plus_product)
minus_product = _ternary(lambda builder, x, y, z: _llvm("llvm.fmuladd")(builder, builder.fneg(x), y, z))
square_root = _unary(_llvm("llvm.sqrt"))
nearest = _unary(_llvm("llvm.rint"))
