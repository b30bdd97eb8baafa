"""A better basis for an exact matrix algorithm: greedy changes of basis that lower the amplification."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError

# By basis X, Y, Z: (factor, axis) that a step multiplies by it, and (factor, axis) it multiplies by its inverse transpose.
_TOUCHED = (((0, 1), (2, 1)), ((1, 1), (0, 2)), ((2, 2), (1, 2)))

INTEGERS = (Fraction(1), Fraction(-1))
HALVES = (*INTEGERS, Fraction(1, 2), Fraction(-1, 2))
SCALES = (Fraction(2), Fraction(1, 2))


def simplify(algorithm: BilinearAlgorithm, *, halves: bool = False) -> BilinearAlgorithm:
    """Lower g of an exact algorithm by elementary changes of basis, as far as single steps go.

    Every step is the best sandwich (see `transforms.sandwich`) with one of X, Y, Z = I +- E_ij and the
    others the identity; these matrices have integer inverses, so the ring stays. Fewer and smaller coefficients
    usually follow. Returns the algorithm itself when no step helps.

    Args:
        halves: also take steps of I +- E_ij / 2, and scale coordinates by 2 or 1/2, unless the ring is Z. That
            goes much lower, at the cost of more additions.

    Raises:
        InputError: not an exact algorithm over the reals, or not for a matrix product.
    """
    shape = algorithm.target.shape
    if shape is None or algorithm.exact is None or not algorithm.is_real:
        raise InputError("only an exact real matrix product can be simplified by changes of basis")
    n, m, p = shape
    amounts = HALVES if halves and algorithm.ring != "Z" else INTEGERS
    bases = [[[Fraction(i == j) for j in range(size)] for i in range(size)] for size in shape]
    factors = [algorithm.U.reshape(-1, n, m), algorithm.V.reshape(-1, m, p), algorithm.W.reshape(-1, n, p)]
    moved = False
    while (step := _best_step(factors, shape, amounts)) is not None:
        side, i, j, amount = step
        (plain, axis), (dual, dual_axis) = _TOUCHED[side]
        factors[plain], factors[dual] = _moved(factors[plain], axis, j, i, amount), _moved_back(factors[dual], dual_axis, j, i, amount)
        for row in bases[side]:  # times I + amount E_ij, or with a coordinate scaled
            row[j] = row[j] * amount if i == j else row[j] + amount * row[i]
        moved = True
    if not moved:
        return algorithm
    written = [[[int(value) if value.denominator == 1 else str(value) for value in row] for row in basis] for basis in bases]
    return sandwich(algorithm, *bases).with_provenance(operation="simplify", bases=written)


def _best_step(
    factors: list[np.ndarray], shape: tuple[int, int, int], amounts: tuple[Fraction, ...]
) -> tuple[int, int, int, Fraction] | None:
    """The (basis, i, j, amount) that lowers sum |u|^2 |v|^2 |w|^2 most, None when nothing does; i = j scales a coordinate."""
    sizes = [(factor**2).sum(axis=(1, 2)) for factor in factors]
    best, lowest = None, float((sizes[0] * sizes[1] * sizes[2]).sum()) * (1 - 1e-9)
    for side, ((plain, axis), (dual, dual_axis)) in enumerate(_TOUCHED):
        untouched = sizes[3 - plain - dual]
        for i, j in product(range(shape[side]), repeat=2):
            for amount in amounts if i != j else SCALES if amounts == HALVES else ():
                first = (_moved(factors[plain], axis, j, i, amount) ** 2).sum(axis=(1, 2))
                second = (_moved_back(factors[dual], dual_axis, j, i, amount) ** 2).sum(axis=(1, 2))
                total = float((first * second * untouched).sum())
                if total < lowest:
                    best, lowest = (side, i, j, amount), total
    return best


def _moved(factor: np.ndarray, axis: int, to: int, source: int, amount: Fraction) -> np.ndarray:
    """Slice `to` along `axis` plus amount times slice `source`, or, where they are one, amount times it."""
    result = np.moveaxis(factor.copy(), axis, 0)
    result[to] = float(amount) * result[source] + (result[to] if to != source else 0.0)
    return np.moveaxis(result, 0, axis)


def _moved_back(factor: np.ndarray, axis: int, to: int, source: int, amount: Fraction) -> np.ndarray:
    """The inverse transpose of `_moved`."""
    return _moved(factor, axis, source, to, -amount if to != source else 1 / amount)
