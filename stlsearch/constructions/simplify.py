"""A better basis for an exact matrix algorithm: greedy changes of basis that lower the amplification."""

from __future__ import annotations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError

# By basis X, Y, Z: (factor, axis) that a step multiplies by it, and (factor, axis) it multiplies by its inverse transpose.
_TOUCHED = (((0, 1), (2, 1)), ((1, 1), (0, 2)), ((2, 2), (1, 2)))


def simplify(algorithm: BilinearAlgorithm) -> BilinearAlgorithm:
    """Lower g of an exact algorithm by elementary changes of basis, as far as single steps go.

    Every step is the best sandwich (see `transforms.sandwich`) with one of X, Y, Z = I +- E_ij and the
    others the identity; these matrices have integer inverses, so the ring stays. Fewer and smaller
    coefficients usually follow. Returns the algorithm itself when no step helps.

    Raises:
        InputError: not an exact algorithm over the reals, or not for a matrix product.
    """
    shape = algorithm.target.shape
    if shape is None or algorithm.exact is None or not algorithm.is_real:
        raise InputError("only an exact real matrix product can be simplified by changes of basis")
    n, m, p = shape
    bases = [np.eye(size, dtype=np.int64) for size in shape]
    factors = [algorithm.U.reshape(-1, n, m), algorithm.V.reshape(-1, m, p), algorithm.W.reshape(-1, n, p)]
    while (step := _best_step(factors, shape)) is not None:
        side, i, j, sign = step
        (plain, axis), (dual, dual_axis) = _TOUCHED[side]
        factors[plain] = _add_slice(factors[plain], axis, j, i, sign)
        factors[dual] = _add_slice(factors[dual], dual_axis, i, j, -sign)
        elementary = np.eye(shape[side], dtype=np.int64)
        elementary[i, j] = sign
        bases[side] = bases[side] @ elementary
    if all(np.array_equal(basis, np.eye(len(basis))) for basis in bases):
        return algorithm
    return sandwich(algorithm, *bases).with_provenance(operation="simplify", bases=[basis.tolist() for basis in bases])


def _best_step(factors: list[np.ndarray], shape: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The (basis, i, j, sign) that lowers sum |u|^2 |v|^2 |w|^2 most, None when nothing does."""
    sizes = [(factor**2).sum(axis=(1, 2)) for factor in factors]
    best, lowest = None, float((sizes[0] * sizes[1] * sizes[2]).sum()) * (1 - 1e-9)
    for side, ((plain, axis), (dual, dual_axis)) in enumerate(_TOUCHED):
        untouched = sizes[3 - plain - dual]
        for i, j in np.argwhere(~np.eye(shape[side], dtype=bool)).tolist():
            for sign in (1, -1):
                first = (_add_slice(factors[plain], axis, j, i, sign) ** 2).sum(axis=(1, 2))
                second = (_add_slice(factors[dual], dual_axis, i, j, -sign) ** 2).sum(axis=(1, 2))
                total = float((first * second * untouched).sum())
                if total < lowest:
                    best, lowest = (side, i, j, sign), total
    return best


def _add_slice(factor: np.ndarray, axis: int, to: int, source: int, sign: int) -> np.ndarray:
    """Slice `to` along `axis` plus sign times slice `source`."""
    result = np.moveaxis(factor.copy(), axis, 0)
    result[to] += sign * result[source]
    return np.moveaxis(result, 0, axis)
