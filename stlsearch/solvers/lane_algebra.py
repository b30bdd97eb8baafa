"""The linear algebra of ALS sweeps, one restart in every lane of a vector: see `stlsearch.solvers.simd`.

A factor of `extent` rows is a flat array of extent * rank vectors, entry (i, p) being vector i * rank + p; a Gram matrix is
rank * rank vectors, of which only the upper triangle is used. Several sums run side by side, since the next addition to one
sum has to wait for the last.
"""

from __future__ import annotations

from numba import njit

from stlsearch.solvers.simd import add, divide, largest, load, minus_product, multiply, plus_product, splat, square_root, store


@njit(nogil=True, error_model="numpy")
def gram(X, G, extent, rank):  # type: ignore[no-untyped-def]
    """G[p, q] = sum_i X[i, p] X[i, q] for q >= p."""
    for p in range(rank):
        q = p
        while q + 4 <= rank:
            a = b = c = d = splat(X, 0.0)
            for i in range(extent):
                row = i * rank
                x = load(X, row + p)
                a = plus_product(x, load(X, row + q), a)
                b = plus_product(x, load(X, row + q + 1), b)
                c = plus_product(x, load(X, row + q + 2), c)
                d = plus_product(x, load(X, row + q + 3), d)
            at = p * rank + q
            store(G, at, a)
            store(G, at + 1, b)
            store(G, at + 2, c)
            store(G, at + 3, d)
            q += 4
        while q < rank:
            a = splat(X, 0.0)
            for i in range(extent):
                a = plus_product(load(X, i * rank + p), load(X, i * rank + q), a)
            store(G, p * rank + q, a)
            q += 1


@njit(nogil=True, error_model="numpy")
def contract(X, A, B, entries, rank):  # type: ignore[no-untyped-def]
    """X[i] += sum over the entries T[i, j, k] A[j] B[k], a group of four entries at a time (see `stlsearch.solvers.plan`)."""
    rows, first, second, values = entries
    for group in range(rows.shape[0]):
        x0 = rows[group] * rank
        a0, a1, a2, a3 = first[group, 0] * rank, first[group, 1] * rank, first[group, 2] * rank, first[group, 3] * rank
        b0, b1, b2, b3 = second[group, 0] * rank, second[group, 1] * rank, second[group, 2] * rank, second[group, 3] * rank
        t0, t1 = splat(X, values[group, 0]), splat(X, values[group, 1])
        t2, t3 = splat(X, values[group, 2]), splat(X, values[group, 3])
        for p in range(rank):
            x = load(X, x0 + p)
            x = plus_product(multiply(t0, load(A, a0 + p)), load(B, b0 + p), x)
            x = plus_product(multiply(t1, load(A, a1 + p)), load(B, b1 + p), x)
            x = plus_product(multiply(t2, load(A, a2 + p)), load(B, b2 + p), x)
            x = plus_product(multiply(t3, load(A, a3 + p)), load(B, b3 + p), x)
            store(X, x0 + p, x)


@njit(nogil=True, error_model="numpy")
def factorise(K, least, rank):  # type: ignore[no-untyped-def]
    """K = R^T R in place (upper triangle), with 1/R[p, p] on the diagonal; pivots below `least` are raised to it."""
    one = splat(K, 1.0)
    for i in range(rank):
        a = load(K, i * rank + i)
        for p in range(i):
            x = load(K, p * rank + i)
            a = minus_product(x, x, a)
        scale = divide(one, square_root(largest(a, least)))
        store(K, i * rank + i, scale)
        q = i + 1
        while q + 4 <= rank:
            at = i * rank + q
            a, b, c, d = load(K, at), load(K, at + 1), load(K, at + 2), load(K, at + 3)
            for p in range(i):
                x = load(K, p * rank + i)
                row = p * rank + q
                a = minus_product(x, load(K, row), a)
                b = minus_product(x, load(K, row + 1), b)
                c = minus_product(x, load(K, row + 2), c)
                d = minus_product(x, load(K, row + 3), d)
            store(K, at, multiply(a, scale))
            store(K, at + 1, multiply(b, scale))
            store(K, at + 2, multiply(c, scale))
            store(K, at + 3, multiply(d, scale))
            q += 4
        while q < rank:
            a = load(K, i * rank + q)
            for p in range(i):
                a = minus_product(load(K, p * rank + i), load(K, p * rank + q), a)
            store(K, i * rank + q, multiply(a, scale))
            q += 1


@njit(nogil=True, error_model="numpy")
def substitute(K, X, extent, rank):  # type: ignore[no-untyped-def]
    """Solve R^T R x = x in place for every row x of X, forwards and back; three rows read R together."""
    i = 0
    while i + 3 <= extent:
        _substitute_three(K, X, i * rank, rank)
        i += 3
    while i < extent:
        _substitute_one(K, X, i * rank, rank)
        i += 1


@njit(nogil=True, error_model="numpy")
def _substitute_three(K, X, x0, rank):  # type: ignore[no-untyped-def]
    x1, x2 = x0 + rank, x0 + 2 * rank
    zero = splat(X, 0.0)
    for step in range(2 * rank):
        forwards = step < rank
        q = step if forwards else 2 * rank - 1 - step
        p, end = (0, q) if forwards else (q + 1, rank)
        at, stride = (q, rank) if forwards else (q * rank, 1)  # of R[p, q], and of R[q, p] on the way back
        a, b, c = load(X, x0 + q), load(X, x1 + q), load(X, x2 + q)
        d = e = f = zero
        while p + 2 <= end:
            k, m = load(K, at + p * stride), load(K, at + (p + 1) * stride)
            a = minus_product(k, load(X, x0 + p), a)
            b = minus_product(k, load(X, x1 + p), b)
            c = minus_product(k, load(X, x2 + p), c)
            d = minus_product(m, load(X, x0 + p + 1), d)
            e = minus_product(m, load(X, x1 + p + 1), e)
            f = minus_product(m, load(X, x2 + p + 1), f)
            p += 2
        if p < end:
            k = load(K, at + p * stride)
            a = minus_product(k, load(X, x0 + p), a)
            b = minus_product(k, load(X, x1 + p), b)
            c = minus_product(k, load(X, x2 + p), c)
        k = load(K, q * rank + q)
        store(X, x0 + q, multiply(add(a, d), k))
        store(X, x1 + q, multiply(add(b, e), k))
        store(X, x2 + q, multiply(add(c, f), k))


@njit(nogil=True, error_model="numpy")
def _substitute_one(K, X, x0, rank):  # type: ignore[no-untyped-def]
    zero = splat(X, 0.0)
    for step in range(2 * rank):
        forwards = step < rank
        q = step if forwards else 2 * rank - 1 - step
        p, end = (0, q) if forwards else (q + 1, rank)
        at, stride = (q, rank) if forwards else (q * rank, 1)
        a, b, c, d = load(X, x0 + q), zero, zero, zero
        while p + 4 <= end:
            a = minus_product(load(K, at + p * stride), load(X, x0 + p), a)
            b = minus_product(load(K, at + (p + 1) * stride), load(X, x0 + p + 1), b)
            c = minus_product(load(K, at + (p + 2) * stride), load(X, x0 + p + 2), c)
            d = minus_product(load(K, at + (p + 3) * stride), load(X, x0 + p + 3), d)
            p += 4
        while p < end:
            a = minus_product(load(K, at + p * stride), load(X, x0 + p), a)
            p += 1
        store(X, x0 + q, multiply(add(add(a, b), add(c, d)), load(K, q * rank + q)))
