"""The Brent equations of given factors, modulo a number: what they miss by, and their derivative.

F[i, j, k] = sum_r U[r, i] V[r, j] W[r, k] - T[i, j, k], one equation for every entry of the tensor, in r(a + b + c) unknowns: the
coefficients of U, then of V, then of W, row-major. With x + d for x, F changes by J d and products of two or three entries of d.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Factors = Sequence[np.ndarray]


def joined(factors: Factors) -> np.ndarray:
    """The coefficients of U, V and W as one vector, shape (r(a + b + c),)."""
    return np.concatenate([factor.ravel() for factor in factors])


def separated(vector: np.ndarray, dims: Sequence[int]) -> list[np.ndarray]:
    """U, V, W of shapes (r, dims[mode]) from what `joined` makes."""
    rank = len(vector) // sum(dims)
    ends = np.cumsum([rank * extent for extent in dims])[:-1]
    return [part.reshape(rank, extent) for part, extent in zip(np.split(vector, ends), dims, strict=True)]


def residual(factors: Factors, wanted: np.ndarray, modulus: int) -> np.ndarray:
    """F modulo `modulus`, residues 0 .. modulus - 1, shape (a, b, c); Python integers where int64 could overflow.

    Args:
        factors: integers.
        wanted: T, integers, shape (a, b, c).
    """
    rank = len(factors[0])
    dtype: type = np.int64 if rank * modulus**2 < 2**62 else object
    residues: list[np.ndarray] = [factor.astype(dtype) % modulus for factor in factors]
    U, V, W = residues
    pairs = (V[:, :, None] * W[:, None, :] % modulus).reshape(rank, -1)
    return ((U.T @ pairs).reshape(wanted.shape) - wanted.astype(dtype)) % modulus


def jacobian(factors: Factors, modulus: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """J modulo `modulus` by its entries that are not 0: equation (i, j, k) as a row number i b c + j c + k, unknown, value.

    Every place is named once. dF[i, j, k]/dU[r, i] = V[r, j] W[r, k], and likewise for V and W.
    """
    rank = len(factors[0])
    dims = [factor.shape[1] for factor in factors]
    strides = (dims[1] * dims[2], dims[2], 1)
    rows, columns, values = [], [], []
    first = 0  # unknown of the mode
    for mode, extent in enumerate(dims):
        one, other = (k for k in range(3) if k != mode)
        products = factors[one][:, :, None] * factors[other][:, None, :] % modulus
        term, j, k = np.nonzero(products)
        index = np.arange(extent)
        rows.append(((j * strides[one] + k * strides[other])[:, None] + index * strides[mode]).ravel())
        columns.append((first + (term * extent)[:, None] + index).ravel())
        values.append(np.repeat(products[term, j, k], extent))
        first += rank * extent
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def annihilates(weights: np.ndarray, factors: Factors, modulus: int) -> bool:
    """Whether the sum of the equations with these weights (a, b, c) has derivative 0 modulo `modulus`: weights^T J = 0."""
    U, V, W = ((factor % modulus).astype(object) for factor in factors)
    weights = weights.astype(object)
    by_c = np.tensordot(weights, W, axes=(2, 1))  # (a, b, r)
    by_b = np.tensordot(weights, V, axes=(1, 1))  # (a, c, r)
    sums = (
        np.einsum("abr,rb->ra", by_c, V),
        np.einsum("abr,ra->rb", by_c, U),
        np.einsum("acr,ra->rc", by_b, U),
    )
    return not any((part % modulus).any() for part in sums)
