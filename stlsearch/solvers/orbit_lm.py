"""Levenberg-Marquardt on the equations of symmetric algorithms, one start at a time, compiled.

A step solves (J^T J + (lam + mu) I) d = J^T f + mu x for the parameters x of one term per orbit, f being the residual at one entry of
every orbit of entries (`stlsearch.search.orbit_equations`), mu a ridge that falls from step to step and keeps coefficients from
growing without bound, and lam the damping, lowered after a step that helped and raised until one does.
"""

from __future__ import annotations

import numpy as np

from stlsearch.solvers.machine_code import compiled

FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums may be reordered and contracted, but NaN and infinity keep their meaning
HOPELESS = 0.5  # missing products after `patience` steps at which a start is given up
TRIES = 6  # dampings tried in a step
SOLVED = 1e-24
LEAST_PIVOT = 1e-14  # of a Cholesky factorisation: below it the damping was too small


@compiled(fastmath=FAST)
def solve(x, source, sign, rows, values, weights, members, ends, embedding, columns, steps, ridge, decay, patience):  # type: ignore[no-untyped-def]
    """The unknowns after at most `steps` steps, and ||T - [[U,V,W]]||^2 there.

    The linear algebra is written out: on matrices this small a BLAS with threads of its own spends its time waiting for them.

    Args:
        x: (orbits, 3, width), within the embedding.
        ridge: mu of the first step; decay: what it is multiplied by after each.
        patience: steps after which a start with more than `HOPELESS` missing products is given up.
    """
    count, size = len(rows), embedding.shape[1]
    here, there = np.empty(count), np.empty(count)
    jacobian = np.empty((count, x.size))
    matrix, damped = np.empty((size, size)), np.empty((size, size))
    residual(x, source, sign, rows, values, weights, members, ends, here)
    missing, damping = (here * here).sum(), 1.0
    for step in range(steps):
        jacobian_of(x, source, sign, rows, weights, members, ends, jacobian)
        J = _into(jacobian, embedding, columns)
        _normal_matrix(J, matrix)
        slope = ridge * _into(x.copy().reshape(1, x.size), embedding, columns)[0]
        for e in range(count):
            slope += here[e] * J[e]
        objective = missing + ridge * (x * x).sum()
        accepted = False
        trial, left = x, missing
        for _ in range(TRIES):
            damped[:] = matrix
            for i in range(size):
                damped[i, i] += damping + ridge
            move = slope.copy()
            if _solve_in_place(damped, move):
                trial = x - _out_of(move, embedding, columns).reshape(x.shape)
                residual(trial, source, sign, rows, values, weights, members, ends, there)
                left = (there * there).sum()
                if left + ridge * (trial * trial).sum() < objective:
                    accepted = True
                    break
            damping = min(damping * 4, 1e12)
        if not accepted:
            break
        x, missing, damping = trial, left, max(damping * 0.3, 1e-12)
        here[:] = there
        ridge *= decay
        if missing < SOLVED or (step >= patience and missing > HOPELESS):
            break
    return x, missing


@compiled(fastmath=FAST)
def _into(wide, embedding, columns):  # type: ignore[no-untyped-def]
    """wide (k, unknowns) times the embedding, whose blocks of rows have the columns columns[b] to columns[b + 1]."""
    blocks = len(columns) - 1
    width = len(embedding) // blocks
    out = np.zeros((len(wide), embedding.shape[1]))
    for e in range(len(wide)):
        for b in range(blocks):
            for i in range(b * width, (b + 1) * width):
                for c in range(columns[b], columns[b + 1]):
                    out[e, c] += wide[e, i] * embedding[i, c]
    return out


@compiled(fastmath=FAST)
def _out_of(parameters, embedding, columns):  # type: ignore[no-untyped-def]
    """The embedding times the parameters."""
    blocks = len(columns) - 1
    width = len(embedding) // blocks
    out = np.zeros(len(embedding))
    for b in range(blocks):
        for i in range(b * width, (b + 1) * width):
            for c in range(columns[b], columns[b + 1]):
                out[i] += embedding[i, c] * parameters[c]
    return out


@compiled(fastmath=FAST)
def _normal_matrix(J, out):  # type: ignore[no-untyped-def]
    """The lower triangle of J^T J, four equations at a time."""
    count, size = J.shape
    out[:] = 0
    whole = count - count % 4
    for e in range(0, whole, 4):
        for i in range(size):
            a, b, c, d = J[e, i], J[e + 1, i], J[e + 2, i], J[e + 3, i]
            for j in range(i + 1):
                out[i, j] += a * J[e, j] + b * J[e + 1, j] + c * J[e + 2, j] + d * J[e + 3, j]
    for e in range(whole, count):
        for i in range(size):
            for j in range(i + 1):
                out[i, j] += J[e, i] * J[e, j]


@compiled(fastmath=FAST)
def _solve_in_place(K, x):  # type: ignore[no-untyped-def]
    """x := K^-1 x by a Cholesky factorisation of the lower triangle; False if K is not positive definite to working precision."""
    size = len(x)
    for i in range(size):
        for j in range(i + 1):
            total = K[i, j]
            for k in range(j):
                total -= K[i, k] * K[j, k]
            if i > j:
                K[i, j] = total / K[j, j]
            elif total > LEAST_PIVOT * K[i, i]:
                K[i, i] = np.sqrt(total)
            else:
                return False
    for i in range(size):
        for k in range(i):
            x[i] -= K[i, k] * x[k]
        x[i] /= K[i, i]
    for i in range(size - 1, -1, -1):
        x[i] /= K[i, i]
        for k in range(i):
            x[k] -= K[i, k] * x[i]
    return True


@compiled(fastmath=FAST)
def residual(x, source, sign, rows, values, weights, members, ends, out):  # type: ignore[no-untyped-def]
    """[[U,V,W]] - T at the entries `rows`, times the weights, into `out` (equations)."""
    for e in range(len(rows)):
        a, b, c = rows[e]
        total = -values[e]
        for k in range(len(x)):
            for place in range(ends[k], ends[k + 1]):
                g = members[place]
                signs = sign[g, 0, a] * sign[g, 1, b] * sign[g, 2, c]
                total += signs * x[k, 0, source[g, 0, a]] * x[k, 1, source[g, 1, b]] * x[k, 2, source[g, 2, c]]
        out[e] = total * weights[e]


@compiled(fastmath=FAST)
def jacobian_of(x, source, sign, rows, weights, members, ends, out):  # type: ignore[no-untyped-def]
    """The derivatives of `residual` by the unknowns, into `out` (equations, unknowns)."""
    width = x.shape[2]
    out[:] = 0
    for e in range(len(rows)):
        a, b, c = rows[e]
        for k in range(len(x)):
            base = 3 * width * k
            for place in range(ends[k], ends[k + 1]):
                g = members[place]
                signs = sign[g, 0, a] * sign[g, 1, b] * sign[g, 2, c] * weights[e]
                i, j, h = source[g, 0, a], source[g, 1, b], source[g, 2, c]
                u, v, w = x[k, 0, i], x[k, 1, j], x[k, 2, h]
                out[e, base + i] += signs * v * w
                out[e, base + width + j] += signs * u * w
                out[e, base + 2 * width + h] += signs * u * v
