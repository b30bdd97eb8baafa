"""ALS over the complex numbers, a batch of starts at once.

The residual T - [[U,V,W]] is holomorphic in the factors (nothing is conjugated in it), so with two factors fixed the third solves
a complex least-squares problem whose normal equations are Hermitian. For U, with the penalty of `stlsearch.solvers.problem`,

    K[r, s] = conj(v_r).v_s conj(w_r).w_s (1 + mu [r = s]),   sum_s K[r, s] U[s, i] = sum_jk conj(V[r, j] W[r, k]) T[i, j, k].
"""

from __future__ import annotations

import numpy as np

BALANCE_EVERY = 8  # sweeps between rescalings of the terms, which the objective does not see
TINY = 1e-30


def random_starts(dims: tuple[int, int, int], rank: int, seeds: list[list[int]], deviation: float) -> list[np.ndarray]:
    """Complex normal factors (starts, r, dims[mode]), each start from a seed of its own; E|x|^2 = deviation^2."""
    drawn = np.stack([np.random.default_rng(seed).standard_normal((2, rank * sum(dims))) for seed in seeds])
    values = (drawn[:, 0] + 1j * drawn[:, 1]) * (deviation / np.sqrt(2))
    cuts = np.cumsum([extent * rank for extent in dims])[:-1]
    return [part.reshape(len(seeds), rank, -1) for part in np.split(values, cuts, axis=1)]


def complex_sweeps(factors: list[np.ndarray], tensor: np.ndarray, penalties: np.ndarray, floor: float = 1e-14) -> list[np.ndarray]:
    """The factors (starts, r, dims[mode]) after ALS sweeps over U, then V, then W, one per penalty mu.

    Args:
        tensor: T, shape (a, b, c).
        floor: least addition to the diagonal, relative to its mean.
    """
    factors = list(factors)
    starts, rank, _ = factors[0].shape
    unfolded = [np.moveaxis(tensor, mode, 2).reshape(-1, tensor.shape[mode]).astype(np.complex128) for mode in range(3)]
    grams = [_gram(factor) for factor in factors]
    diagonal = np.arange(rank)
    for sweep, mu in enumerate(penalties):
        for mode in range(3):
            one, other = (k for k in range(3) if k != mode)
            matrix = grams[one] * grams[other]
            sizes = matrix[:, diagonal, diagonal].real
            matrix[:, diagonal, diagonal] = sizes * (1 + mu) + floor * sizes.mean(axis=1, keepdims=True) + TINY
            pairs = (factors[one].conj()[:, :, :, None] * factors[other].conj()[:, :, None, :]).reshape(starts, rank, -1)
            factors[mode] = np.linalg.solve(matrix, pairs @ unfolded[mode])
            grams[mode] = _gram(factors[mode])
        if sweep % BALANCE_EVERY == 0:
            norms = [np.sqrt(np.maximum(gram[:, diagonal, diagonal].real, TINY)) for gram in grams]
            scales = [np.cbrt(norms[0] * norms[1] * norms[2]) / norm for norm in norms]
            factors = [factor * scale[:, :, None] for factor, scale in zip(factors, scales, strict=True)]
            grams = [gram * (scale[:, :, None] * scale[:, None, :]) for gram, scale in zip(grams, scales, strict=True)]
    return factors


def missing_of_batch(factors: list[np.ndarray], tensor: np.ndarray) -> np.ndarray:
    """||T - [[U,V,W]]||^2 of every start, shape (starts,)."""
    U, V, W = factors
    pairs = (V[:, :, :, None] * W[:, :, None, :]).reshape(*V.shape[:2], -1)
    difference = U.transpose(0, 2, 1) @ pairs - tensor.reshape(len(tensor), -1)
    return np.square(np.abs(difference)).sum(axis=(1, 2))


def _gram(factor: np.ndarray) -> np.ndarray:
    return factor.conj() @ factor.transpose(0, 2, 1)
