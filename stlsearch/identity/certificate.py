"""A certificate that two exact algorithms are one, and its check in exact arithmetic.

The certificate names a permutation of <n,m,p>, matrices X, Y, Z, which term goes to which, and their scalings, such that
`sandwich(permute(A, order), X, Y, Z)` has the terms of B: for every r, with (u, v, w) of the permuted A and (u', v', w')
of B's term permutation[r] in the C^T form,

    X^T u = a_r u' Y^T,    Y^T v = b_r v' Z^T,    Z^T w = c_r w' X^T,    a_r b_r c_r = 1,    X, Y, Z invertible.

The check multiplies matrices of integers and knows nothing of how the certificate was found. Gaussian rationals become
2 x 2 blocks [[a, -b], [b, a]], over Zp everything is reduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.rational import inverse
from stlsearch.constructions.transforms import permute
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of
from stlsearch.identity.modular import ranks
from stlsearch.identity.terms import ORDERS


@dataclass(frozen=True, eq=False)
class Certificate:
    """See the module.

    Attributes:
        order: of n, m, p, as `permute` takes it; (1, 2, 3) when nothing is permuted, (3, 2, 1) for a transposition.
        X, Y, Z: in characteristic 0 integers (Gaussian ones) without common factor, over Zp in 0..p-1.
        permutation: term r of A becomes term permutation[r] of B.
        scalings: (r, 3), the a, b, c.
        modulus: p when the algorithms are compared over Zp, None in characteristic 0.
    """

    order: tuple[int, int, int]
    X: ExactMatrix
    Y: ExactMatrix
    Z: ExactMatrix
    permutation: tuple[int, ...]
    scalings: ExactMatrix
    modulus: int | None = None


def verify_certificate(certificate: Certificate, one: BilinearAlgorithm, other: BilinearAlgorithm) -> bool:
    """Whether the certificate takes `one` to `other`, in exact arithmetic."""
    modulus = certificate.modulus
    if {modulus_of(algorithm.ring) for algorithm in (one, other)} - {None} != {modulus} - {None}:
        return False
    if tuple(certificate.order) not in ORDERS or sorted(certificate.permutation) != list(range(one.rank)) or one.rank != other.rank:
        return False
    try:
        moved = permute(one, certificate.order)
        if moved.target != other.target or moved.exact is None or other.exact is None:
            return False
        blocks = _Blocks(certificate, moved, other)
        return blocks.invertible() and blocks.terms_agree()
    except (InputError, ValueError, ZeroDivisionError):  # shapes that do not fit, fractions that do not exist modulo p
        return False


class _Blocks:
    """Everything as matrices of Python integers over one denominator each; the equations are multiplied by the denominators."""

    def __init__(self, certificate: Certificate, moved: BilinearAlgorithm, other: BilinearAlgorithm) -> None:
        assert moved.exact is not None and other.exact is not None and moved.target.shape is not None
        self.modulus = certificate.modulus
        bases = (certificate.X, certificate.Y, certificate.Z)
        matrices = (*moved.exact, *other.exact, *bases, certificate.scalings)
        self.wide = any(matrix.imaginary is not None for matrix in matrices)
        if self.modulus is not None and (self.wide or any(matrix.denominator % self.modulus == 0 for matrix in matrices)):
            raise InputError(f"complex coefficients and denominators have no image modulo {self.modulus}")
        n, m, p = moved.target.shape
        if [basis.shape for basis in bases] != [(size, size) for size in (n, m, p)]:
            raise InputError("X, Y, Z must be square, of sizes n, m, p")
        if certificate.scalings.shape != (moved.rank, 3):
            raise InputError("scalings must be of shape (r, 3)")
        self.shapes = ((n, m), (m, p), (n, p))
        self.permutation = certificate.permutation
        self.first, self.second = moved.exact, other.exact
        self.scalings = certificate.scalings
        self.bases = [self._transposed(basis) for basis in bases]
        self.below = [basis.denominator for basis in bases]

    def invertible(self) -> bool:
        if self.modulus is not None:
            return all(int(ranks((basis % self.modulus).astype(np.int64)[None], self.modulus)[0]) == len(basis) for basis in self.bases)
        try:
            for basis in self.bases:
                inverse(basis.tolist())
        except InputError:
            return False
        return True

    def terms_agree(self) -> bool:
        return all(self._term_agrees(r, image) for r, image in enumerate(self.permutation))

    def _term_agrees(self, r: int, image: int) -> bool:
        scale = None
        for mode, shape in enumerate(self.shapes):
            before, after = (self._matrix(factors[mode], place, mode, shape) for factors, place in ((self.first, r), (self.second, image)))
            factor = self._block(*(part[r : r + 1, mode : mode + 1] for part in _parts(self.scalings)))
            left, right = mode, (mode + 1) % 3
            own = self.bases[left] @ before * (self.below[right] * self.second[mode].denominator * self.scalings.denominator)
            scaled = _times_scalar(factor, after) @ self.bases[right] * (self.below[left] * self.first[mode].denominator)
            if not self._zero(own - scaled):
                return False
            scale = factor if scale is None else scale @ factor
        assert scale is not None
        return self._zero(scale - np.eye(len(scale), dtype=int).astype(object) * self.scalings.denominator**3)

    def _transposed(self, basis: ExactMatrix) -> np.ndarray:
        real, imaginary = _parts(basis)
        return self._block(real.T, imaginary.T)

    def _matrix(self, factor: ExactMatrix, r: int, mode: int, shape: tuple[int, int]) -> np.ndarray:
        """u, v or w of term r in the C^T form."""
        parts = (part[r].reshape(shape) for part in _parts(factor))
        return self._block(*(part.T if mode == 2 else part for part in parts))

    def _block(self, real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
        if not self.wide:
            return real
        rows, columns = real.shape
        block = np.empty((rows, 2, columns, 2), dtype=object)
        block[:, 0, :, 0], block[:, 1, :, 1] = real, real
        block[:, 0, :, 1], block[:, 1, :, 0] = -imaginary, imaginary
        return block.reshape(2 * rows, 2 * columns)

    def _zero(self, matrix: np.ndarray) -> bool:
        return not ((matrix % self.modulus if self.modulus is not None else matrix) != 0).any()


def _parts(matrix: ExactMatrix) -> tuple[np.ndarray, np.ndarray]:
    """Numerators, real and imaginary, as Python integers."""
    real = matrix.real.astype(object)
    return real, real * 0 if matrix.imaginary is None else matrix.imaginary.astype(object)


def _times_scalar(scalar: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A number, as a block, times a matrix of such blocks."""
    if len(scalar) == 1:
        return matrix * scalar[0, 0]
    rows, columns = matrix.shape
    return (scalar @ matrix.reshape(rows // 2, 2, columns)).reshape(rows, columns)
