"""The inner loop of a matrix product: a block of the result in registers, and blocks turned over on the way to it.

With registers of 64 bytes, of which there are 32, HEIGHT rows by WIDTH vectors leave room for what they are multiplied by. Every step
loads WIDTH vectors of one factor and HEIGHT numbers of the other for HEIGHT x WIDTH multiply-adds, so that arithmetic is the limit and
not loading.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from stlsearch.solvers.simd import Vector, element, emit_plus_product, in_every_lane, intrinsic

HEIGHT, WIDTH = 12, 2


def block_product(by_row: int, by_column: int) -> Any:
    """``out[i, j] (+)= sum_k left[i, k] right[k, j]`` for HEIGHT rows and WIDTH vectors, as a function for compiled code.

    Args:
        by_row, by_column: how far apart rows and columns of `left` are. Constants, so that addresses need no arithmetic.

    Returns:
        ``block(left, left_at, right, right_at, out, out_at, out_stride, count, add)`` on flat arrays of one floating dtype: `left` from
        place left_at on, `right` as `count` > 0 rows of WIDTH vectors, rows of the result out_stride apart, `add` whether it is added to.
    """

    @intrinsic
    def block(typing, left, left_at, right, right_at, out, out_at, out_stride, count, add):  # type: ignore[no-untyped-def]
        vector = Vector(left.dtype)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kind, alignment = context.get_value_type(vector), vector.scalar.bitwidth // 8
            left_at, right_at, out_at, out_stride, count, add = (arguments[number] for number in (1, 3, 5, 6, 7, 8))

            def number_of_left(i: int, step: Any) -> Any:
                place = builder.add(builder.add(left_at, builder.mul(step, _index(by_column))), _index(i * by_row))
                return builder.load(element(context, builder, signature.args[0], arguments[0], place))

            def vector_of_right(j: int, step: Any) -> Any:
                place = builder.add(right_at, builder.add(builder.mul(step, _index(WIDTH * vector.lanes)), _index(j * vector.lanes)))
                return builder.load(element(context, builder, signature.args[2], arguments[2], place, kind), align=alignment)

            before, loop, after = builder.block, builder.append_basic_block("terms"), builder.append_basic_block("terms_end")
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(ir.IntType(64))
            sums = [[builder.phi(kind) for _ in range(WIDTH)] for _ in range(HEIGHT)]
            row = [vector_of_right(j, step) for j in range(WIDTH)]
            results = []
            for i in range(HEIGHT):
                number = in_every_lane(context, builder, number_of_left(i, step), vector)
                results.append([emit_plus_product(builder, number, row[j], sums[i][j]) for j in range(WIDTH)])
            following = builder.add(step, _index(1))
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            step.add_incoming(_index(0), before)
            step.add_incoming(following, loop)
            for i in range(HEIGHT):
                for j in range(WIDTH):
                    sums[i][j].add_incoming(ir.Constant(kind, None), before)
                    sums[i][j].add_incoming(results[i][j], loop)
            builder.position_at_end(after)
            with builder.if_else(add) as branches:
                for branch, adds in zip(branches, (True, False), strict=True):
                    with branch:
                        for i in range(HEIGHT):
                            for j in range(WIDTH):
                                place = builder.add(out_at, builder.add(builder.mul(out_stride, _index(i)), _index(j * vector.lanes)))
                                to = element(context, builder, signature.args[4], arguments[4], place, kind)
                                value = results[i][j]
                                value = builder.fadd(builder.load(to, align=alignment), value) if adds else value
                                builder.store(value, to, align=alignment)
            return context.get_dummy_value()

        at = types.intp
        return types.none(left, at, right, at, out, at, at, at, types.boolean), generate

    return block


@intrinsic
def turn(typing, source, source_at, source_stride, target, target_at, target_stride):  # type: ignore[no-untyped-def]
    """target[k, l] = source[l, k] for as many rows and columns as a vector has lanes, in flat arrays with those strides of rows."""
    vector = Vector(source.dtype)
    lanes = vector.lanes

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind, alignment = context.get_value_type(vector), vector.scalar.bitwidth // 8

        def row(number: int, array: int) -> Any:
            array_type, (values, at, stride) = signature.args[array], arguments[array : array + 3]
            return element(context, builder, array_type, values, builder.add(at, builder.mul(stride, _index(number))), kind)

        rows = [builder.load(row(number, 0), align=alignment) for number in range(lanes)]
        apart = lanes // 2
        while apart:  # exchange the off-diagonal blocks of blocks, ever smaller ones
            upper = [lane if not lane & apart else lanes + lane - apart for lane in range(lanes)]
            lower = [lane + apart if not lane & apart else lanes + lane for lane in range(lanes)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), mask) for mask in (upper, lower)]
            for number in range(lanes):
                if not number & apart:
                    pair = rows[number], rows[number + apart]
                    rows[number], rows[number + apart] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            apart //= 2
        for number in range(lanes):
            builder.store(rows[number], row(number, 3), align=alignment)
        return context.get_dummy_value()

    at = types.intp
    return types.none(source, at, at, target, at, at), generate


def _index(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), number)
