"""Levenberg-Marquardt on the equations of symmetric algorithms, one start at a time, compiled.

A step solves (J^T J + (lam + mu) I) d = J^T f + mu x for the parameters x of one term per orbit, f being the residual at one entry of
every orbit of entries (`stlsearch.search.orbit_equations`), mu a ridge that falls from step to step and keeps coefficients from
growing without bound, and lam the damping, lowered after a step that helped and raised until one does. Sums are not reordered by the
compiler: a seed leads to the same digits wherever a function is inlined.
"""

from __future__ import annotations

import numpy as np

from stlsearch.solvers.dense import add_gram, solve_in_place
from stlsearch.solvers.machine_code import compiled

HOPELESS = 0.5  # missing products after `patience` steps at which a start is given up
TRIES = 6  # dampings tried in a step
SOLVED = 1e-24


@compiled()
def solve(x, source, sign, rows, values, weights, members, ends, embedding, size, steps, ridge, decay, patience, stop):  # type: ignore[no-untyped-def]
    """The unknowns after at most `steps` steps, and ||T - [[U,V,W]]||^2 there.

    Args:
        x: (orbits, 3, width), within the embedding.
        embedding: a sparse matrix by rows: where each begins, columns and values of its entries.
        size: columns of the embedding, whole vectors of them (`stlsearch.solvers.dense`).
        ridge: mu of the first step; decay: what it is multiplied by after each.
        patience: steps after which a start with more than `HOPELESS` missing products is given up.
        stop: shape (1,), looked at before every step: another thread ends the fit by setting it.
    """
    count = len(rows)
    here, there = np.empty(count), np.empty(count)
    jacobian = np.empty((count, x.size))
    matrix, damped = np.empty(size * size), np.empty(size * size)
    residual(x, source, sign, rows, values, weights, members, ends, here)
    missing = (here * here).sum()
    damping = min(1.0, missing)  # near a solution, along its flattest directions, a large one allows no step that `missing` could show
    for step in range(steps):
        if stop[0]:
            break
        jacobian_of(x, source, sign, rows, weights, members, ends, jacobian)
        J = _into(jacobian, embedding, size)
        matrix[:] = 0
        add_gram(matrix, J.ravel(), 0, count, size, 1.0, 0)
        slope = ridge * _into(x.copy().reshape(1, x.size), embedding, size)[0]
        for e in range(count):
            slope += here[e] * J[e]
        objective = missing + ridge * (x * x).sum()
        accepted = False
        trial, left = x, missing
        for _ in range(TRIES):
            damped[:] = matrix
            for i in range(size):
                damped[i * size + i] += damping + ridge
            move = slope.copy()
            if solve_in_place(damped, move):
                trial = x - _out_of(move, embedding).reshape(x.shape)
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


@compiled()
def _into(wide, embedding, size):  # type: ignore[no-untyped-def]
    """wide (k, unknowns) times the embedding: (k, size)."""
    starts, places, values = embedding
    out = np.zeros((len(wide), size))
    for e in range(len(wide)):
        for i in range(len(starts) - 1):
            x = wide[e, i]
            if x != 0:
                for entry in range(starts[i], starts[i + 1]):
                    out[e, places[entry]] += x * values[entry]
    return out


@compiled()
def _out_of(parameters, embedding):  # type: ignore[no-untyped-def]
    """The embedding times the parameters."""
    starts, places, values = embedding
    out = np.zeros(len(starts) - 1)
    for i in range(len(out)):
        for entry in range(starts[i], starts[i + 1]):
            out[i] += values[entry] * parameters[places[entry]]
    return out


@compiled()
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


@compiled()
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
