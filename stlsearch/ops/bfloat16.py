"""bfloat16 in numba kernels, which know it as the uint16 of its bits: widened to float32 and rounded from it, or multiplied in pairs.

A processor with AVX512_BF16 takes two numbers side by side, a uint32, and adds both products to one float32. That is half the arithmetic
of widened numbers, and none to widen them. It takes denormal numbers for zero and rounds to zero what would be one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from stlsearch.solvers.machine_code import processor
from stlsearch.solvers.simd import Vector, emit_plus_product, emit_store_some, intrinsic

SUMS = Vector(types.float32)
_HALF, _WORD = ir.IntType(16), ir.IntType(32)


def multiplies_pairs() -> bool:
    """Whether numba compiles for a processor with the instructions."""
    return "avx512bf16" in processor()[1]


class _BFloat(ir.types._BaseFloatType):  # llvmlite has no such type
    null = "0.0"

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()


def _instruction(builder: Any, name: str, result: ir.Type, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.{name}.512")
    return builder.call(function, arguments)


@intrinsic
def no_sums(typing, source):  # type: ignore[no-untyped-def]
    """Zeros to add products of numbers or pairs of `source` to."""
    sums = SUMS if source.dtype == types.uint32 else Vector(source.dtype)
    return sums(source), lambda context, builder, signature, arguments: ir.Constant(context.get_value_type(sums), None)


@intrinsic
def plus_products(typing, x, y, z):  # type: ignore[no-untyped-def]
    """z + x y; where x and y are pairs, z + both products of each."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if x == z:
            return emit_plus_product(builder, *arguments)
        pairs = (builder.bitcast(argument, ir.VectorType(_BFloat(), 2 * SUMS.lanes)) for argument in arguments[:2])
        return _instruction(builder, "dpbf16ps", arguments[2].type, arguments[2], *pairs)

    return z(x, y, z), generate


@intrinsic
def write_sums(typing, target, at, left, source, x, y):  # type: ignore[no-untyped-def]
    """Two vectors of sums over `source` to `target` from `at` on, as it stores them, as far as there are numbers left.

    bfloat16 is rounded to the nearest, ties to even, NaN stays NaN.
    """
    vector = Vector(target.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, at, left, _, first, second = arguments
        if target.dtype != types.uint16:
            step = at.type(vector.lanes)
            emit_store_some(context, builder, target, array, at, left, first, vector)
            emit_store_some(context, builder, target, array, builder.add(at, step), builder.sub(left, step), second, vector)
            return context.get_dummy_value()
        if source.dtype == types.uint32:
            numbers = _instruction(builder, "cvtne2ps2bf16", ir.VectorType(_BFloat(), vector.lanes), second, first)
            numbers = builder.bitcast(numbers, context.get_value_type(vector))
        else:
            both = ir.Constant(ir.VectorType(_WORD, vector.lanes), list(range(vector.lanes)))
            numbers = builder.shuffle_vector(_upper_halves(builder, first), _upper_halves(builder, second), both)
        emit_store_some(context, builder, target, array, at, left, numbers, vector)
        return context.get_dummy_value()

    return types.none(target, types.intp, types.intp, source, x, y), generate


def _upper_halves(builder: Any, sums: Any) -> Any:
    """float32 rounded to the 16 bits of bfloat16, in integers."""
    words = ir.VectorType(_WORD, SUMS.lanes)

    def number(value: int) -> ir.Constant:
        return ir.Constant(words, [value] * SUMS.lanes)

    bits = builder.bitcast(sums, words)
    odd = builder.and_(builder.lshr(bits, number(16)), number(1))
    nearest = builder.add(builder.add(bits, number(0x7FFF)), odd)
    quiet = builder.or_(bits, number(0x400000))
    upper = builder.lshr(builder.select(builder.fcmp_unordered("uno", sums, sums), quiet, nearest), number(16))
    return builder.trunc(upper, ir.VectorType(_HALF, SUMS.lanes))


@intrinsic
def widened(typing, value):  # type: ignore[no-untyped-def]
    """A stored number as it is summed: the 16 bits of a bfloat16 are the upper half of a float32."""
    if isinstance(value, types.Float):
        return value(value), lambda context, builder, signature, arguments: arguments[0]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits = builder.shl(builder.zext(arguments[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), generate
