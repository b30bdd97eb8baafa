"""A basis in which an integer algorithm has coefficients -1, 0 and 1 only.

Elementary changes of basis (one row or column of all matrices plus or minus another, see `constructions.transforms.sandwich`) are made as
long as they lower the sum of |c| - 1 over all coefficients beyond 1; where none does, two random ones are made.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError

STEPS = 400  # changes of basis


def ternary_form(algorithm: BilinearAlgorithm, seed: int = 0) -> BilinearAlgorithm:
    """The algorithm itself where it is ternary, else in a basis where it is.

    Raises:
        InputError: none was found, or it is no integer matrix product.
    """
    if algorithm.is_ternary:
        return algorithm
    shape = algorithm.target.shape
    if shape is None or algorithm.exact is None or any(f.denominator != 1 or f.imaginary is not None for f in algorithm.exact):
        raise InputError(
            f"{algorithm.name} has coefficients other than -1, 0, 1 and is no matrix product over Z, which other bases might give them"
        )
    n, m, p = shape
    factors = [f.real.reshape(-1, *size) for f, size in zip(algorithm.exact, ((n, m), (m, p), (n, p)), strict=True)]
    bases = [np.eye(size, dtype=np.int64) for size in shape]
    moves = [
        (side, source, goal, sign) for side, size in enumerate(shape) for source, goal in permutations(range(size), 2) for sign in (1, -1)
    ]
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        if _excess(factors) == 0:
            break
        trials = [_sheared(factors, *move) for move in moves]
        excess = np.array([_excess(trial) for trial in trials]) + random.random(len(moves)) / 2
        chosen = [int(excess.argmin())] if excess.min() < _excess(factors) else random.integers(len(moves), size=2).tolist()
        for index in chosen:
            side, source, goal, sign = moves[index]
            factors = _sheared(factors, side, source, goal, sign)
            bases[side] = bases[side] @ _elementary(shape[side], side, source, goal, sign)
    if _excess(factors) > 0:
        raise InputError(f"{algorithm.name} has coefficients other than -1, 0, 1, and no basis was found in which it has not")
    return sandwich(algorithm, *bases)


def _excess(factors: list[np.ndarray]) -> int:
    return sum(int((np.abs(factor) - 1).clip(0).sum()) for factor in factors)


def _elementary(size: int, side: int, source: int, goal: int, sign: int) -> np.ndarray:
    """What `sandwich` takes for the step of `_sheared`: U' = U (X (x) Y^-T) with X = I + s E_sg, Y = (I + s E_sg)^-T."""
    matrix = np.eye(size, dtype=np.int64)
    if side == 0:
        matrix[source, goal] = sign
    else:
        matrix[goal, source] = -sign
    return matrix


def _sheared(factors: list[np.ndarray], side: int, source: int, goal: int, sign: int) -> list[np.ndarray]:
    """Row (or column) `source` added to `goal` in one factor, and `goal` taken from `source` in the other that shares the index."""
    first, first_axis, second, second_axis = ((0, 1, 2, 1), (0, 2, 1, 1), (1, 2, 2, 2))[side]
    result = [factor.copy() for factor in factors]
    one, other = (np.moveaxis(result[index], axis, 0) for index, axis in ((first, first_axis), (second, second_axis)))
    one[goal] += sign * one[source]
    other[source] -= sign * other[goal]
    return result
