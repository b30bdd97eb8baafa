"""Compiled ALS sweeps for CPUs: many restarts side by side in the lanes of the vector unit.

The matrices of one restart are too small for BLAS to be fast (a 24 x 24 Cholesky factorisation, a tensor with 64
non-zero entries). So the restart is the innermost, contiguous axis of every array, and each scalar operation of the
algorithm becomes one vector operation on all of them: no remainders, no pivots, no Python in the loop.

Layouts: a factor is (dims[mode], r, lanes), a Gram matrix (r, r, lanes), of which only the upper triangle is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

LANES = 32  # restarts side by side: fewer leave vector units idle, more leave the second-level cache
UNROLL = 4  # entries of the tensor added in one pass over a row
BALANCE_EVERY = 8  # sweeps between rescalings of the terms, which the objective does not see
# Sums may be reordered and contracted, but NaN and infinity keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}


def compiled(**options: Any) -> Callable:
    """`numba.njit` without the interpreter's lock, the machine code kept on the disk where there is a place for it."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the user's cache folder can be written
            return njit(nogil=True, **options)(function)

    return decorate


@dataclass(frozen=True)
class Plan:
    """The non-zero entries of a tensor as the update of one mode reads them, in groups of `UNROLL` with the same row.

    Attributes:
        rows: the row of each group, shape (groups,).
        first, second: indices into the other two modes, shape (groups, UNROLL).
        values: the entries, 0 where a group is padded, shape (groups, UNROLL).
    """

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(tensor: np.ndarray, mode: int) -> Plan:
        """The plan for updating the factor of `mode`."""
        unfolded = np.moveaxis(tensor, mode, 0)
        rows, first, second, values = [], [], [], []
        for row, matrix in enumerate(unfolded):
            j, k = np.nonzero(matrix)
            pad = -len(j) % UNROLL
            entries = np.concatenate([matrix[j, k], np.zeros(pad, dtype=tensor.dtype)])
            rows += [row] * (len(entries) // UNROLL)
            first.append(np.concatenate([j, np.zeros(pad, dtype=np.int64)]))
            second.append(np.concatenate([k, np.zeros(pad, dtype=np.int64)]))
            values.append(entries)
        flat = (np.concatenate(part).reshape(-1, UNROLL) for part in (first, second, values))
        return Plan(np.array(rows, dtype=np.int64), *flat)


def sweep_lanes(factors: list[np.ndarray], plans: list[Plan], penalties: np.ndarray, floor: float) -> None:
    """ALS sweeps in place: U, then V, then W, once per row of `penalties`.

    Args:
        factors: U, V, W of shape (dims[mode], r, lanes), C-contiguous, one floating dtype.
        plans: one per mode, values of the same dtype.
        penalties: the multiplier mu of sweep s and lane l, shape (sweeps, lanes), same dtype.
        floor: added to the diagonal of the normal equations, relative to its mean, and the least pivot.
    """
    arguments = [part for plan in plans for part in (plan.rows, plan.first, plan.second, plan.values)]
    _sweeps(*(*factors, *arguments, penalties, penalties.dtype.type(floor)))


@compiled(fastmath=FAST)
def _sweeps(U, V, W, rowsU, firstU, secondU, valuesU, rowsV, firstV, secondV, valuesV, rowsW, firstW, secondW, valuesW, penalties, floor):  # type: ignore[no-untyped-def]
    rank, lanes = U.shape[1], U.shape[2]
    gram_u, gram_v, gram_w, work = (
        np.zeros((rank, rank, lanes), U.dtype),
        np.zeros((rank, rank, lanes), U.dtype),
        np.zeros((rank, rank, lanes), U.dtype),
        np.zeros((rank, rank, lanes), U.dtype),
    )
    _gram(U, gram_u)
    _gram(V, gram_v)
    _gram(W, gram_w)
    for step in range(penalties.shape[0]):
        if step % BALANCE_EVERY == 0:
            _balance(V, W, gram_u, gram_v, gram_w)
            _gram(V, gram_v)
            _gram(W, gram_w)
        penalty = penalties[step]
        _update(U, V, W, gram_v, gram_w, work, rowsU, firstU, secondU, valuesU, penalty, floor)
        _gram(U, gram_u)
        _update(V, U, W, gram_u, gram_w, work, rowsV, firstV, secondV, valuesV, penalty, floor)
        _gram(V, gram_v)
        _update(W, U, V, gram_u, gram_v, work, rowsW, firstW, secondW, valuesW, penalty, floor)
        _gram(W, gram_w)


@compiled(fastmath=FAST)
def _balance(V, W, gram_u, gram_v, gram_w):  # type: ignore[no-untyped-def]
    """Rescale v and w of every term to the geometric mean of |u|, |v|, |w|; u is recomputed next, from these."""
    rank, lanes = V.shape[1], V.shape[2]
    for p in range(rank):
        for lane in range(lanes):
            norm_u, norm_v, norm_w = np.sqrt(gram_u[p, p, lane]), np.sqrt(gram_v[p, p, lane]), np.sqrt(gram_w[p, p, lane])
            size = (norm_u * norm_v * norm_w) ** (1.0 / 3.0)
            if size > 0 and np.isfinite(size):
                for i in range(V.shape[0]):
                    V[i, p, lane] *= size / norm_v
                for i in range(W.shape[0]):
                    W[i, p, lane] *= size / norm_w


@compiled(fastmath=FAST)
def _gram(X, G):  # type: ignore[no-untyped-def]
    """G[p, q] = sum_i X[i, p] X[i, q] for q >= p, four rows of X at a time."""
    rows, rank, lanes = X.shape
    for p in range(rank):
        for q in range(p, rank):
            for lane in range(lanes):
                G[p, q, lane] = 0.0
        i = 0
        while i + 4 <= rows:
            for q in range(p, rank):
                for lane in range(lanes):
                    G[p, q, lane] += (X[i, p, lane] * X[i, q, lane] + X[i + 1, p, lane] * X[i + 1, q, lane]) + (
                        X[i + 2, p, lane] * X[i + 2, q, lane] + X[i + 3, p, lane] * X[i + 3, q, lane]
                    )
            i += 4
        while i < rows:
            for q in range(p, rank):
                for lane in range(lanes):
                    G[p, q, lane] += X[i, p, lane] * X[i, q, lane]
            i += 1


@compiled(fastmath=FAST)
def _update(X, A, B, gram_a, gram_b, K, rows, first, second, values, penalty, floor):  # type: ignore[no-untyped-def]
    """X = the minimiser with A and B fixed: (gram_a * gram_b with its diagonal times 1 + penalty) X = MTTKRP."""
    extent, rank, lanes = X.shape
    least = np.zeros(lanes, X.dtype)
    for p in range(rank):
        for q in range(p, rank):
            for lane in range(lanes):
                K[p, q, lane] = gram_a[p, q, lane] * gram_b[p, q, lane]
        for lane in range(lanes):
            least[lane] += K[p, p, lane]
    for lane in range(lanes):
        least[lane] = floor * least[lane] / rank + 1e-30
    for p in range(rank):
        for lane in range(lanes):
            K[p, p, lane] = K[p, p, lane] * (1 + penalty[lane]) + least[lane]
    _mttkrp(X, A, B, rows, first, second, values)
    _factorise(K, least)
    for i in range(extent):
        _substitute(K, X[i])


@compiled(fastmath=FAST)
def _mttkrp(X, A, B, rows, first, second, values):  # type: ignore[no-untyped-def]
    """X[i] = sum over the entries T[i, j, k] A[j] B[k], a group of four entries at a time."""
    rank, lanes = X.shape[1], X.shape[2]
    X[:] = 0.0
    for group in range(rows.shape[0]):
        x = X[rows[group]]
        a0, a1, a2, a3 = A[first[group, 0]], A[first[group, 1]], A[first[group, 2]], A[first[group, 3]]
        b0, b1, b2, b3 = B[second[group, 0]], B[second[group, 1]], B[second[group, 2]], B[second[group, 3]]
        t0, t1, t2, t3 = values[group, 0], values[group, 1], values[group, 2], values[group, 3]
        for p in range(rank):
            for lane in range(lanes):
                x[p, lane] += (t0 * a0[p, lane] * b0[p, lane] + t1 * a1[p, lane] * b1[p, lane]) + (
                    t2 * a2[p, lane] * b2[p, lane] + t3 * a3[p, lane] * b3[p, lane]
                )


@compiled(fastmath=FAST)
def _factorise(K, least):  # type: ignore[no-untyped-def]
    """K = R^T R in place (upper triangle), with 1/R[p, p] on the diagonal; pivots below `least` are raised to it."""
    rank, lanes = K.shape[1], K.shape[2]
    for i in range(rank):
        p = 0
        while p + 4 <= i:
            for q in range(i, rank):
                for lane in range(lanes):
                    K[i, q, lane] -= (K[p, i, lane] * K[p, q, lane] + K[p + 1, i, lane] * K[p + 1, q, lane]) + (
                        K[p + 2, i, lane] * K[p + 2, q, lane] + K[p + 3, i, lane] * K[p + 3, q, lane]
                    )
            p += 4
        while p < i:
            for q in range(i, rank):
                for lane in range(lanes):
                    K[i, q, lane] -= K[p, i, lane] * K[p, q, lane]
            p += 1
        for lane in range(lanes):
            K[i, i, lane] = 1.0 / np.sqrt(max(K[i, i, lane], least[lane]))
        for q in range(i + 1, rank):
            for lane in range(lanes):
                K[i, q, lane] *= K[i, i, lane]


@compiled(fastmath=FAST)
def _substitute(K, x):  # type: ignore[no-untyped-def]
    """Solve R^T R x = x in place, forwards and back, for one right-hand side (r, lanes)."""
    rank, lanes = x.shape
    for q in range(rank):
        p = 0
        while p + 4 <= q:
            for lane in range(lanes):
                x[q, lane] -= (K[p, q, lane] * x[p, lane] + K[p + 1, q, lane] * x[p + 1, lane]) + (
                    K[p + 2, q, lane] * x[p + 2, lane] + K[p + 3, q, lane] * x[p + 3, lane]
                )
            p += 4
        while p < q:
            for lane in range(lanes):
                x[q, lane] -= K[p, q, lane] * x[p, lane]
            p += 1
        for lane in range(lanes):
            x[q, lane] *= K[q, q, lane]
    for q in range(rank - 1, -1, -1):
        p = q + 1
        while p + 4 <= rank:
            for lane in range(lanes):
                x[q, lane] -= (K[q, p, lane] * x[p, lane] + K[q, p + 1, lane] * x[p + 1, lane]) + (
                    K[q, p + 2, lane] * x[p + 2, lane] + K[q, p + 3, lane] * x[p + 3, lane]
                )
            p += 4
        while p < rank:
            for lane in range(lanes):
                x[q, lane] -= K[q, p, lane] * x[p, lane]
            p += 1
        for lane in range(lanes):
            x[q, lane] *= K[q, q, lane]
