"""Normal equations of a few hundred unknowns, compiled: J^T J, and its Cholesky factorisation.

A BLAS with threads of its own spends its time waiting for them on matrices this small. A matrix is a flat array, row after row, of
`size` columns, a multiple of `LANES`; of symmetric ones only the upper triangle is used. Blocks of 4 x 16 are summed in registers.
"""

from __future__ import annotations

import numpy as np

from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import load, minus_product, multiply, plus_product, splat, store, subtract, width

LANES = width(np.float64)
PANEL = 4 * LANES  # rows that are factorised before the rest of the matrix hears of them
LEAST_PIVOT, TINY = 1e-14, 1e-290  # relative to the diagonal, and at all: below it a matrix is not positive definite to working precision


@compiled()
def add_gram(out, J, first, last, size, sign, begin):  # type: ignore[no-untyped-def]
    """out[i, j] += sign * sum_e J[e, i] J[e, j] for begin <= i <= j and first <= e < last; `size` and `begin` are multiples of `LANES`."""
    vectors, factor = size // LANES, splat(J, sign)
    for i in range(begin, size, 4):
        j = i // LANES
        while j < vectors:
            two = min(j + 1, vectors - 1)  # the last vector of an odd number is computed twice and stored once
            zero = splat(J, 0.0)
            a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
            for row in range(first, last):
                at = row * vectors
                x, y = load(J, at + j), load(J, at + two)
                place = row * size + i
                k = splat(J, J[place])
                a, b = plus_product(k, x, a), plus_product(k, y, b)
                k = splat(J, J[place + 1])
                c, d = plus_product(k, x, c), plus_product(k, y, d)
                k = splat(J, J[place + 2])
                e, f = plus_product(k, x, e), plus_product(k, y, f)
                k = splat(J, J[place + 3])
                g, h = plus_product(k, x, g), plus_product(k, y, h)
            to = i * vectors + j
            store(out, to, plus_product(factor, a, load(out, to)))
            store(out, to + vectors, plus_product(factor, c, load(out, to + vectors)))
            store(out, to + 2 * vectors, plus_product(factor, e, load(out, to + 2 * vectors)))
            store(out, to + 3 * vectors, plus_product(factor, g, load(out, to + 3 * vectors)))
            if two > j:
                to += 1
                store(out, to, plus_product(factor, b, load(out, to)))
                store(out, to + vectors, plus_product(factor, d, load(out, to + vectors)))
                store(out, to + 2 * vectors, plus_product(factor, f, load(out, to + 2 * vectors)))
                store(out, to + 3 * vectors, plus_product(factor, h, load(out, to + 3 * vectors)))
            j += 2


@compiled()
def solve_in_place(K, x):  # type: ignore[no-untyped-def]
    """x := K^-1 x for a multiple of `LANES` unknowns, K becoming R, K = R^T R; False if K is not positive definite to working precision."""
    size = len(x)
    vectors = size // LANES
    least = np.empty(size)
    for p in range(size):
        least[p] = LEAST_PIVOT * K[p * size + p]
    for first in range(0, size, PANEL):
        last = min(first + PANEL, size)
        for p in range(first, last):
            _take_rows_off(K, first, p, vectors, size)
            pivot = K[p * size + p]
            if not pivot > max(least[p], TINY):
                return False
            scale = splat(K, 1 / np.sqrt(pivot))
            for j in range(p // LANES, vectors):
                store(K, p * vectors + j, multiply(load(K, p * vectors + j), scale))
        add_gram(K, K, first, last, size, -1.0, last)
    _substitute(K, x, size)
    return True


@compiled()
def _take_rows_off(K, first, p, vectors, size):  # type: ignore[no-untyped-def]
    """Row p of K, from the diagonal on, minus what the rows first .. p of R already account for."""
    for j in range(p // LANES, vectors):
        a, b = load(K, p * vectors + j), splat(K, 0.0)
        k = first
        while k + 2 <= p:
            a = minus_product(splat(K, K[k * size + p]), load(K, k * vectors + j), a)
            b = plus_product(splat(K, K[(k + 1) * size + p]), load(K, (k + 1) * vectors + j), b)
            k += 2
        if k < p:
            a = minus_product(splat(K, K[k * size + p]), load(K, k * vectors + j), a)
        store(K, p * vectors + j, subtract(a, b))


@compiled()
def _substitute(R, x, size):  # type: ignore[no-untyped-def]
    """Solve R^T R x = x in place."""
    for p in range(size):
        x[p] /= R[p * size + p]
        for j in range(p + 1, size):
            x[j] -= R[p * size + j] * x[p]
    for p in range(size - 1, -1, -1):
        total = x[p]
        for j in range(p + 1, size):
            total -= R[p * size + j] * x[j]
        x[p] = total / R[p * size + p]
