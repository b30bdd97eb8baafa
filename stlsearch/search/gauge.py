"""The diagonal freedom of an algorithm: rescale it so that as many coefficients as possible become 1 or -1.

A term may be rescaled, and for matrix products a diagonal change of basis X, Y, Z multiplies (de Groote 1978)

    U[r, ij] by x_i / y_j,   V[r, jk] by y_j / z_k,   W[r, ik] by z_k / x_i

without changing what is computed. In logarithms that is linear, so the rescaling that makes sum |log |coefficient|| over the
coefficients that are not zero least is a linear l1 fit: robust, as it lets the few coefficients that should be 2 or 1/2 be so.
It is solved by iteratively reweighted least squares.
"""

from __future__ import annotations

import numpy as np

from stlsearch.solvers.machine_code import compiled
from stlsearch.targets import Target

ZERO = 0.03  # a coefficient below this share of its row's norm counts as zero
ROUNDS = 12  # of reweighting
SOFT = 1e-3  # residuals below it weigh alike


def normalise(factors: list[np.ndarray], target: Target, zero: float = ZERO) -> list[np.ndarray]:
    """The factors (dims[mode], r, lanes) in the diagonal gauge with the most coefficients of size 1; same dtype, new arrays.

    For targets other than matrix products only terms are rescaled. A lane with a vanishing or infinite term is left as it is.
    """
    shape = target.shape or (0, 0, 0)
    rescaled = [np.empty_like(factor) for factor in factors]
    for lane in range(factors[0].shape[2]):
        U, V, W = (np.ascontiguousarray(factor[:, :, lane], dtype=np.float64) for factor in factors)
        _normalise(U, V, W, *shape, zero)
        for whole, part in zip(rescaled, (U, V, W), strict=True):
            whole[:, :, lane] = part
    return rescaled


@compiled()
def _normalise(U, V, W, n, m, p, zero):  # type: ignore[no-untyped-def]
    """In place. Unknowns: log x, log y, log z, then the log scale of every u, then of every v."""
    rank, gauge = U.shape[1], n + m + p
    unknowns = gauge + 2 * rank
    most = (U.shape[0] + V.shape[0] + W.shape[0]) * rank
    index, sign, logs = np.zeros((most, 4), np.int64), np.zeros((most, 4)), np.zeros(most)
    count = 0
    for r in range(rank):
        norms = np.sqrt((U[:, r] ** 2).sum()), np.sqrt((V[:, r] ** 2).sum()), np.sqrt((W[:, r] ** 2).sum())
        size = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
        if not (np.isfinite(size) and size > 0):
            return
        U[:, r] *= size / norms[0]
        V[:, r] *= size / norms[1]
        W[:, r] *= size / norms[2]
        for mode in range(3):
            X = U if mode == 0 else V if mode == 1 else W
            for i in range(X.shape[0]):
                if abs(X[i, r]) <= zero * size:
                    continue
                logs[count] = np.log(abs(X[i, r]))
                if gauge > 0:
                    first, second = _axes(mode, i, n, m, p)
                    index[count, 0], index[count, 1] = first, second
                    sign[count, 0], sign[count, 1] = (-1.0, 1.0) if mode == 2 else (1.0, -1.0)
                if mode != 1:
                    index[count, 2], sign[count, 2] = gauge + r, 1.0 if mode == 0 else -1.0
                if mode != 0:
                    index[count, 3], sign[count, 3] = gauge + rank + r, 1.0 if mode == 1 else -1.0
                count += 1
    scale = np.exp(-_least_absolute(index[:count], sign[:count], logs[:count], unknowns))
    for r in range(rank):
        u, v = scale[gauge + r], scale[gauge + rank + r]
        for mode in range(3):
            X = U if mode == 0 else V if mode == 1 else W
            for i in range(X.shape[0]):
                factor = u if mode == 0 else v if mode == 1 else 1 / (u * v)
                if gauge > 0:
                    first, second = _axes(mode, i, n, m, p)
                    ratio = scale[first] / scale[second]
                    factor *= 1 / ratio if mode == 2 else ratio
                X[i, r] *= factor


@compiled()
def _axes(mode, i, n, m, p):  # type: ignore[no-untyped-def]
    """The two unknowns of the row and the column of entry i of A, B or C."""
    if mode == 0:
        return i // m, n + i % m
    if mode == 1:
        return n + i // p, n + m + i % p
    return i // p, n + m + i % p


@compiled()
def _least_absolute(index, sign, values, unknowns):  # type: ignore[no-untyped-def]
    """The x that minimises sum_e |values[e] - sum_s sign[e, s] x[index[e, s]]|."""
    weights = np.ones(len(values))
    x = np.zeros(unknowns)
    A = np.zeros((unknowns, unknowns))
    for _ in range(ROUNDS):
        A[:] = 0.0
        b = np.zeros(unknowns)
        for e in range(len(values)):
            for s in range(4):
                weighted = weights[e] * sign[e, s]
                b[index[e, s]] += weighted * values[e]
                for t in range(4):
                    A[index[e, s], index[e, t]] += weighted * sign[e, t]
        for i in range(unknowns):
            A[i, i] += 1e-6  # a common factor of x, y and z changes nothing
        _solve(A, b)
        x = b
        for e in range(len(values)):
            residual = values[e]
            for s in range(4):
                residual -= sign[e, s] * x[index[e, s]]
            weights[e] = 1 / (abs(residual) + SOFT)
    return x


@compiled()
def _solve(A, b):  # type: ignore[no-untyped-def]
    """A^-1 b in place of b, A symmetric positive definite and overwritten. (numba's own solver needs LAPACK at compile time.)"""
    size = len(b)
    for i in range(size):
        for j in range(i):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            A[i, j] = total * A[j, j]
        total = A[i, i]
        for k in range(i):
            total -= A[i, k] * A[i, k]
        A[i, i] = 1 / np.sqrt(max(total, 1e-12))
        total = b[i]
        for k in range(i):
            total -= A[i, k] * b[k]
        b[i] = total * A[i, i]
    for i in range(size - 1, -1, -1):
        total = b[i]
        for k in range(i + 1, size):
            total -= A[k, i] * b[k]
        b[i] = total * A[i, i]
