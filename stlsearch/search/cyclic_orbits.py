"""Orbits of terms under the cyclic symmetry of square matrix products.

With C^T in the place of C the product of n x n matrices is the sum of a_ij (x) b_jk (x) c_ki, which the rotation u (x) v (x) w ->
v (x) w (x) u leaves as it is. A term with u = v = w is fixed by it, every other one has three rotations.
"""

from __future__ import annotations

import numpy as np

from stlsearch.errors import InputError
from stlsearch.targets import Target


def transposed_bits(masks: np.ndarray, n: int) -> np.ndarray:
    """Masks of n x n matrices, row-major, as those of their transposes."""
    result = np.zeros_like(masks)
    for i in range(n):
        for j in range(n):
            result |= ((masks >> np.uint64(i * n + j)) & np.uint64(1)) << np.uint64(j * n + i)
    return result


def orbits(terms: np.ndarray, signs: np.ndarray, target: Target, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(terms, signs, fixed): one term of every orbit of three with its sign, and a of the fixed terms a (x) a (x) a; W for C^T.

    Args:
        terms: (r, 3, 2) masks of the coefficients 1 and -1, W for C.
        signs: (r,), 1 for -1.

    Raises:
        InputError: not a square matrix product, or terms that the rotation does not permute.
    """
    if target.shape is None or len(set(target.shape)) != 1:
        raise InputError(f"cyclic symmetry is for products of square matrices, not for {target.slug}")
    terms = terms.copy()
    terms[:, 2] = transposed_bits(terms[:, 2], target.shape[0])
    left: dict[tuple, int] = {}
    for term, sign in zip(terms.tolist(), signs.tolist(), strict=True):
        key, negative = _normal(term, sign)
        left[key] = left.get(key, 0) + (-1 if negative else 1)
    moved, negatives, fixed = [], [], []
    while left:
        key, count = left.popitem()
        if key[0] == key[1] == key[2]:
            fixed += [key[0] if count > 0 else key[0][::-1]] * abs(count)  # (-a) (x) (-a) (x) (-a) = -a (x) a (x) a
            continue
        for rotation in ((key[1], key[2], key[0]), (key[2], key[0], key[1])):
            if left.pop(rotation, 0) != count:
                raise InputError(f"{name} has no cyclic symmetry: a term without its rotations")
        moved += [key] * abs(count)
        negatives += [count < 0] * abs(count)
    masks = (np.array(moved, dtype=np.uint64).reshape(-1, 3, 2), np.array(fixed, dtype=np.uint64).reshape(-1, 2))
    return masks[0], np.array(negatives, dtype=np.uint64), masks[1]


def fused(terms: np.ndarray, signs: np.ndarray, fixed: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two fixed terms made one, so many times: a^3 + b^3 = (a + b)^3 - orbit of a a b - orbit of a b b, ^ being the tensor power.

    Moves keep the number of fixed terms over Z, so it decides which ranks can be reached at all: Strassen's algorithm is one fixed
    term and two orbits, while the standard one has two. Only terms without common entries are fused.
    """
    for _ in range(times):
        if len(fixed) < 2 or (fixed[0] & fixed[1]).any() or (fixed[0] & fixed[1][::-1]).any():
            break
        a, b = fixed[0], fixed[1]
        terms = np.concatenate([terms, np.array([[a, a, b], [a, b, b]])])
        signs = np.concatenate([signs, np.ones(2, dtype=np.uint64)])
        fixed = np.concatenate([[a | b], fixed[2:]])
    return terms, signs, fixed


def expanded(terms: np.ndarray, signs: np.ndarray, fixed: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All terms and signs of orbits and fixed terms, W for C again: what `orbits` took apart."""
    whole = np.concatenate([terms, terms[:, [1, 2, 0]], terms[:, [2, 0, 1]], np.repeat(fixed[:, None], 3, axis=1)])
    whole[:, 2] = transposed_bits(whole[:, 2], n)
    return whole, np.concatenate([signs, signs, signs, np.zeros(len(fixed), dtype=np.uint64)])


def _normal(term: list, sign: int) -> tuple[tuple, int]:
    """A term with factors whose first mask exceeds the second, and its sign."""
    factors = []
    for positive, negative in term:
        sign ^= negative > positive
        factors.append((max(positive, negative), min(positive, negative)))
    return tuple(factors), sign
