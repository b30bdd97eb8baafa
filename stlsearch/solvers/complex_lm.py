"""Levenberg-Marquardt on one start, real or complex, with any of the coefficients held where they are.

The residual F = [[U,V,W]] - T is holomorphic, so a step solves (J^H J + d I) x = -J^H F with the complex Jacobian J. It is never
formed: with A = conj(U) U^T and so on, the blocks of J^H J are, for terms r, s and entries i, j,

    (U_ri, U_sj): (B*C)[r, s] [i = j]          (U_ri, V_sj): C[r, s] U[s, i] conj(V[r, j])

and cyclically. Held coefficients leave the equations, so the steps get cheaper the more of them there are. What the kernel of J
holds are the directions along the manifold of solutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from stlsearch.search.brent import joined, separated

KERNEL = 1e-5  # singular values of J below this share of the largest count as zero
MAX_DAMPING, MIN_DAMPING = 1e3, 1e-13


def residual(factors: Sequence[np.ndarray], tensor: np.ndarray) -> np.ndarray:
    """F = [[U,V,W]] - T, shape (a, b, c)."""
    U, V, W = factors
    pairs = (V[:, :, None] * W[:, None, :]).reshape(len(V), -1)
    return (U.T @ pairs).reshape(tensor.shape) - tensor


def normal_matrix(factors: Sequence[np.ndarray], free: np.ndarray) -> np.ndarray:
    """J^H J of the free unknowns, shape (free, free); unknowns ordered U, V, W, row-major.

    Args:
        free: bool, shape (r(a+b+c),).
    """
    widths = [factor.shape[1] for factor in factors]
    flags = np.split(free, np.cumsum([factor.size for factor in factors])[:-1])
    places = [np.divmod(np.flatnonzero(part), width) for part, width in zip(flags, widths, strict=True)]  # term and entry
    ends = np.cumsum([0, *(len(term) for term, _ in places)])
    parts = [slice(ends[mode], ends[mode + 1]) for mode in range(3)]
    matrix = np.zeros((ends[3], ends[3]), np.result_type(*factors))
    grams = [factor.conj() @ factor.T for factor in factors]
    for mode, (term, entry) in enumerate(places):
        one, other = (k for k in range(3) if k != mode)
        matrix[parts[mode], parts[mode]] = (grams[one] * grams[other])[np.ix_(term, term)] * (entry[:, None] == entry)
    for row, column, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        (r, i), (s, j) = places[row], places[column]
        block = grams[other][np.ix_(r, s)] * factors[row].T[np.ix_(i, s)] * factors[column].conj()[np.ix_(r, j)]
        matrix[parts[row], parts[column]] = block
        matrix[parts[column], parts[row]] = block.conj().T
    return matrix


def newton(
    factors: Sequence[np.ndarray],
    tensor: np.ndarray,
    free: np.ndarray | None = None,
    *,
    iterations: int = 30,
    damping: float = 1e-6,
    tolerance: float = 1e-27,
) -> tuple[list[np.ndarray], float]:
    """The factors after at most `iterations` steps, and ||T - [[U,V,W]]||^2 there.

    Args:
        factors: U, V, W of shapes (r, a), (r, b), (r, c), float64 or complex128.
        tensor: T, shape (a, b, c).
        free: of every coefficient, in the order of `normal_matrix`, whether it may move; None for all.
        damping: first d, in units of the mean of the diagonal.
        tolerance: missing products that are good enough.
    """
    dims = [factor.shape[1] for factor in factors]
    x = joined(factors)
    free = np.ones(len(x), bool) if free is None else free
    here = residual(factors, tensor)
    missing = float(np.square(np.abs(here)).sum())
    factors, equations = list(factors), None
    for _ in range(iterations if free.any() else 0):
        if missing < tolerance:
            break
        if equations is None:
            equations = normal_matrix(factors, free)
            pull = _gradient(factors, here)[free]
            diagonal = equations.diagonal().copy()
        np.fill_diagonal(equations, diagonal + damping * diagonal.real.mean())
        try:
            step = cho_solve(cho_factor(equations, lower=True, check_finite=False), -pull, check_finite=False)
        except LinAlgError:
            damping = max(10 * damping, MIN_DAMPING)
            if damping > MAX_DAMPING:
                break
            continue
        moved = x.copy()
        moved[free] += step
        trial = separated(moved, dims)
        there = residual(trial, tensor)
        value = float(np.square(np.abs(there)).sum())
        if value < missing:
            x, factors, here, missing, equations = moved, trial, there, value, None
            damping = max(damping / 10, MIN_DAMPING)
        elif missing < 1e3 * tolerance or damping > MAX_DAMPING:
            break
        else:
            damping = 10 * max(damping, MIN_DAMPING)
    return factors, missing


def kernel(factors: Sequence[np.ndarray], free: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the directions of the free coefficients that leave F = 0 to first order, shape (free, k)."""
    values, vectors = np.linalg.eigh(normal_matrix(factors, free))
    return vectors[:, values < KERNEL**2 * values.max(initial=1e-30)]


def _gradient(factors: Sequence[np.ndarray], difference: np.ndarray) -> np.ndarray:
    """J^H F."""
    parts = []
    for mode in range(3):
        one, other = (k for k in range(3) if k != mode)
        pairs = (factors[one].conj()[:, :, None] * factors[other].conj()[:, None, :]).reshape(len(factors[0]), -1)
        parts.append((pairs @ np.moveaxis(difference, mode, 2).reshape(-1, difference.shape[mode])).ravel())
    return np.concatenate(parts)
