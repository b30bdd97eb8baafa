"""The change of basis behind terms that correspond: a linear system once their scalings are known.

X^T u_r = a_r u'_r Y^T and its two cyclic siblings are linear in (X, Y, Z) together. The system is solved modulo a prime;
in characteristic 0 modulo several, at both square roots of -1 where there are complex coefficients, the rational solution
is put together, and the certificate counts only if it passes `verify_certificate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from itertools import product
from math import gcd, lcm

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.identity import scalings as scaling_system
from stlsearch.identity.certificate import Certificate, verify_certificate
from stlsearch.identity.modular import Residue, primes, ranks, root_of_minus_one, solutions
from stlsearch.identity.modular import product as modular_product
from stlsearch.identity.terms import Terms

MOST_COMBINATIONS = 4096  # of the solutions of the linear system that are tried for invertible ones


class Outcome(Enum):
    """What became of a matching of terms without a certificate."""

    REFUTED = "no change of basis makes it"
    UNKNOWN = "not settled"


@dataclass
class Pair:
    """Two algorithms of one rank, the first with n, m, p permuted by `order` to the second's shape."""

    one: BilinearAlgorithm
    other: BilinearAlgorithm
    order: tuple[int, int, int]
    modulus: int | None
    _images: dict[tuple[int, bool], tuple[Terms, Terms]] = field(default_factory=dict, repr=False)

    def images(self, prime: int, conjugate: bool) -> tuple[Terms, Terms]:
        """Both modulo a prime."""
        key = prime, conjugate
        if key not in self._images:
            first, second = (Terms.of(algorithm, self.modulus, prime, conjugate) for algorithm in (self.one, self.other))
            self._images[key] = first.form(self.order), second
        return self._images[key]

    @property
    def complex_valued(self) -> bool:
        """Whether a coefficient is not real."""
        return any(factor.imaginary is not None for algorithm in (self.one, self.other) for factor in algorithm.exact or ())

    def certificate(self, permutation: np.ndarray) -> Certificate | Outcome:
        """The change of basis that takes term r to term permutation[r], if there is one."""
        if self.modulus is not None:
            found = _solutions(*self.images(self.modulus, False), permutation)
            if isinstance(found, Outcome):
                return found
            return self._checked(permutation, [(int(value), 0) for value in found.values(None)])
        choice: tuple[int, tuple[int, ...]] | None = None
        residues = Residue()
        for prime in primes():
            try:
                parts = self._modulo(prime, permutation, choice)
            except InputError:  # a denominator that this prime divides
                continue
            if isinstance(parts, Outcome):
                return parts if choice is None else Outcome.UNKNOWN
            choice, values = parts
            residues.add(values, prime)
            numbers = residues.fractions()
            if numbers is None:
                continue
            half = len(numbers) // 2
            whole = list(zip(numbers[:half], numbers[half:], strict=True)) if self.complex_valued else [(x, Fraction(0)) for x in numbers]
            checked = self._checked(permutation, whole)
            if isinstance(checked, Certificate):
                return checked
        return Outcome.UNKNOWN

    def _modulo(
        self, prime: int, permutation: np.ndarray, choice: tuple[int, tuple[int, ...]] | None
    ) -> tuple[tuple[int, tuple[int, ...]], list[int]] | Outcome:
        """X, Y, Z and scalings modulo a prime: real parts, then imaginary ones where there are complex coefficients."""
        found = _solutions(*self.images(prime, False), permutation)
        if isinstance(found, Outcome):
            return found
        values = found.values(choice)
        if not self.complex_valued:
            return found.choice, values
        other = _solutions(*self.images(prime, True), permutation)
        if isinstance(other, Outcome):
            return Outcome.UNKNOWN
        second = other.values(found.choice if choice is None else choice)
        half = pow(2, -1, prime)
        from_root = half * pow(root_of_minus_one(prime), -1, prime)
        real = [(x + y) * half % prime for x, y in zip(values, second, strict=True)]
        imaginary = [(x - y) * from_root % prime for x, y in zip(values, second, strict=True)]
        return found.choice, real + imaginary

    def _checked(self, permutation: np.ndarray, values: list[tuple]) -> Certificate | Outcome:
        """The certificate of X^T, Y^T, Z^T and scalings, (real, imaginary) each, if it holds."""
        shape = self.images(next(iter(self._images))[0], False)[1].shape
        scales, matrices, start = [], [], 0
        for size in shape:
            entries = values[start : start + size * size]
            start += size * size
            scale = Fraction(1) if self.modulus is not None else _content(entries)
            if not scale:
                return Outcome.UNKNOWN
            scales.append(scale)
            rows = [[entries[row * size + column] for row in range(size)] for column in range(size)]  # transposed
            matrices.append([[(a / scale, b / scale) for a, b in row] for row in rows])
        rank = self.one.rank
        factors = []
        for r in range(rank):
            line = []
            for mode in range(3):
                a, b = values[start + mode * rank + r]
                turn = scales[(mode + 1) % 3] / scales[mode]  # X^T becomes X^T/scale, and a becomes a * scale of Y / scale of X
                line.append((a * turn, b * turn))
            factors.append(line)
        try:
            X, Y, Z = (_exact(matrix) for matrix in matrices)
            certificate = Certificate(self.order, X, Y, Z, tuple(int(image) for image in permutation), _exact(factors), self.modulus)
        except InputError:  # beyond the integers that are stored
            return Outcome.UNKNOWN
        return certificate if verify_certificate(certificate, self.one, self.other) else Outcome.UNKNOWN


@dataclass(frozen=True, eq=False)
class _Found:
    """Solutions (X^T, Y^T, Z^T) of the linear system, a basis for each scaling, and which one is invertible."""

    spaces: list[np.ndarray]
    scalings: tuple[np.ndarray, ...]
    choice: tuple[int, tuple[int, ...]]
    prime: int

    def values(self, choice: tuple[int, tuple[int, ...]] | None) -> list[int]:
        """Entries of the chosen solution and its scalings, flat."""
        index, coefficients = self.choice if choice is None else choice
        index = min(index, len(self.spaces) - 1)
        space = self.spaces[index]
        weights = np.array([coefficients[: len(space)]], dtype=np.int64) % self.prime
        if weights.shape[1] != len(space):
            weights = np.ones((1, len(space)), dtype=np.int64)
        vector = modular_product(weights, space, self.prime)[0]
        return [*vector.tolist(), *self.scalings[index].ravel().tolist()]


def _solutions(first: Terms, second: Terms, permutation: np.ndarray) -> _Found | Outcome:
    scalings = scaling_system.solve(first.traces, second.traces[np.ix_(permutation, permutation, permutation)], first.prime)
    second = Terms(second.u[permutation], second.v[permutation], second.w[permutation], second.prime, second.faithful)
    settled = scalings.complete
    spaces = []
    chosen: tuple[int, tuple[int, ...]] | None = None
    for index, scaling in enumerate(scalings.solutions):
        space = intertwiners(first, second, scaling)
        spaces.append(space)
        if chosen is None and len(space):
            coefficients, all_tried = _invertible(space, first.shape, first.prime)
            if coefficients is not None:
                chosen = index, coefficients
                break
            settled = settled and all_tried
    if chosen is not None:
        return _Found(spaces, scalings.solutions, chosen, first.prime)
    return Outcome.REFUTED if settled else Outcome.UNKNOWN


def intertwiners(first: Terms, second: Terms, scaling: np.ndarray) -> np.ndarray:
    """The (x, y, z) with x u = a u' y, y v = b v' z, z w = c w' x for all terms: a basis, rows of length n^2 + m^2 + p^2."""
    images = (factor * scale[:, None, None] for factor, scale in zip((second.u, second.v, second.w), scaling, strict=True))
    grids = equations(first, tuple(images))
    return solutions(np.concatenate([grid.reshape(-1, grid.shape[3]) for grid in grids]), first.prime)


def equations(first: Terms, images: tuple[np.ndarray, ...], further: int = 0) -> list[np.ndarray]:
    """x u - u' y, y v - v' z and z w - w' x as linear forms in the entries of x, y, z and `further` unknowns, modulo p.

    Args:
        images: u', v', w', shapes (r, n, m), (r, m, p), (r, p, n).

    Returns:
        Three arrays (r, rows, columns, n^2 + m^2 + p^2 + further): the coefficients for each entry of each matrix.
    """
    sizes = first.shape
    starts = [0, *(int(end) for end in np.cumsum([size * size for size in sizes]))]
    grids = []
    for mode, (own, image) in enumerate(zip((first.u, first.v, first.w), images, strict=True)):
        left, right = mode, (mode + 1) % 3
        grid = np.zeros((len(own), sizes[left], sizes[right], starts[-1] + further), dtype=np.int64)
        for i in range(sizes[left]):  # x[i, k] has the coefficient u[k, j] in the entry (i, j)
            at = starts[left] + i * sizes[left]
            grid[:, i, :, at : at + sizes[left]] += own.transpose(0, 2, 1)
        for j in range(sizes[right]):  # and y[k, j] has -u'[i, k]
            grid[:, :, j, starts[right] + j : starts[right + 1] : sizes[right]] -= image % first.prime
        grids.append(grid % first.prime)
    return grids


def _invertible(space: np.ndarray, shape: tuple[int, int, int], prime: int) -> tuple[tuple[int, ...] | None, bool]:
    """Coefficients of a solution with X, Y, Z invertible, and whether none can have been missed (over Zp all were tried)."""
    count = len(space)
    if prime**count <= MOST_COMBINATIONS:
        tried, every = np.array(list(product(range(prime), repeat=count)), dtype=np.int64), True
    else:
        tried, every = np.random.default_rng(0).integers(0, min(prime, 8), size=(64, count)), False
        tried = np.concatenate([np.eye(count, dtype=np.int64), np.ones((1, count), dtype=np.int64), tried])
    vectors = modular_product(tried, space, prime)
    good = np.ones(len(tried), dtype=bool)
    start = 0
    for size in shape:
        good &= ranks(vectors[:, start : start + size * size].reshape(-1, size, size), prime) == size
        start += size * size
    if not good.any():
        return None, every
    return tuple(int(value) for value in tried[int(good.argmax())]), True


def _content(entries: list[tuple[Fraction, Fraction]]) -> Fraction:
    """The largest fraction of which all entries are (Gaussian) integer multiples; 0 when all are 0."""
    parts = [Fraction(part) for entry in entries for part in entry if part]
    if not parts:
        return Fraction(0)
    below = lcm(*(part.denominator for part in parts))
    return Fraction(gcd(*(int(part * below) for part in parts)), below)


def _exact(rows: list[list[tuple]]) -> ExactMatrix:
    parts = [[[Fraction(entry[part]) for entry in row] for row in rows] for part in range(2)]
    below = lcm(*(value.denominator for part in parts for row in part for value in row))
    real, imaginary = ([[int(value * below) for value in row] for row in part] for part in parts)
    return ExactMatrix.make(real, below, imaginary)
