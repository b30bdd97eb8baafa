"""An exact algorithm for a matrix product as triples of matrices modulo a prime.

In the C^T form a term is (u, v, w), of shapes n x m, m x p and p x n, and an exact algorithm says that
sum_r tr(u_r A^T) tr(v_r B^T) tr(w_r C^T) is trace of a product. Everything asked of a scheme here is asked of the traces
T_rst = tr(u_r v_s w_t) and of ranks of matrices made of its u, v, w, see `stlsearch.identity.colours`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.identity.modular import primes, ranks, residues, root_of_minus_one

ORDERS = ((1, 2, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1), (2, 1, 3), (1, 3, 2))  # as `permute` of constructions names them
MAX_RANK = 250  # the traces are r^3 numbers, and a dozen such arrays are held


@dataclass(frozen=True, eq=False)
class Terms:
    """The triples of an algorithm modulo a prime.

    Attributes:
        u, v, w: int64 in 0..p-1, shapes (r, n, m), (r, m, p), (r, p, n).
        prime: p.
        faithful: no trace or minor used here can be 0 modulo the prime without being 0 itself; always so over Zp.
    """

    u: np.ndarray
    v: np.ndarray
    w: np.ndarray
    prime: int
    faithful: bool = True

    @staticmethod
    def of(algorithm: BilinearAlgorithm, modulus: int | None = None, prime: int | None = None, conjugate: bool = False) -> Terms:
        """Of an exact algorithm for a matrix product.

        Args:
            modulus: the p of Zp it is to be seen over; by default its own ring's, None in characteristic 0.
            prime: the one to use in characteristic 0, 1 modulo 4; by default the first of `primes`.
            conjugate: take the other square root of -1 for i.

        Raises:
            InputError: inexact, no matrix product, of a rank above `MAX_RANK`, or with fractions that do not exist modulo p.
        """
        check(algorithm)
        n, m, p = algorithm.target.shape  # type: ignore[misc]
        modulus = modulus_of(algorithm.ring) or modulus
        prime = modulus or prime or next(primes())
        root = 0 if modulus else root_of_minus_one(prime)
        factors = [residues(factor, prime, prime - root if conjugate else root) for factor in algorithm.exact or ()]
        faithful = modulus is not None or _faithful(algorithm, prime)
        u, v, w = (factor.reshape(-1, *shape) for factor, shape in zip(factors, ((n, m), (m, p), (n, p)), strict=True))
        return Terms(u, v, w.transpose(0, 2, 1), prime, faithful)

    @property
    def rank(self) -> int:
        """r."""
        return len(self.u)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, m, p)."""
        return self.u.shape[1], self.u.shape[2], self.v.shape[2]

    def form(self, order: tuple[int, int, int]) -> Terms:
        """Those of `permute(algorithm, order)`, in the same order: cyclic shifts of (u, v, w), after (v^T, u^T, w^T) for odd ones."""
        names, transposed = form_names(order)
        factors = {"u": self.u, "v": self.v, "w": self.w}
        u, v, w = (_turned(factors[name]) if transposed else factors[name] for name in names.values())
        return Terms(u, v, w, self.prime, self.faithful)

    @cached_property
    def traces(self) -> np.ndarray:
        """T_rst = tr(u_r v_s w_t) modulo p, shape (r, r, r)."""
        n, m, p = self.shape
        half = self.prime // 2
        small = [np.where(factor > half, factor - self.prime, factor) for factor in (self.u, self.v, self.w)]
        bound = float(n * m * p)
        for factor in small:
            bound *= float(np.abs(factor).max(initial=1))
        if bound < 2**53:  # float64 is exact there, and by far the fastest
            u, v, w = (factor.astype(np.float64) for factor in small)
            pairs = np.einsum("rij,sjk->rski", u, v, optimize=True).reshape(self.rank**2, -1)
            traces = pairs @ w.reshape(self.rank, -1).T
            return np.rint(traces).astype(np.int64).reshape((self.rank,) * 3) % self.prime
        pairs = self.pair_products(self.u, self.v)
        traces = np.zeros((self.rank,) * 3, dtype=np.int64)
        for i in range(n):
            for k in range(p):
                traces = (traces + pairs[:, :, i, k][:, :, None] * self.w[None, None, :, k, i]) % self.prime
        return traces

    def pair_products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """left_r right_s modulo p for every two terms, shape (r, r, rows, columns)."""
        total = np.zeros((len(left), len(right), left.shape[1], right.shape[2]), dtype=np.int64)
        for inner in range(left.shape[2]):
            total = (total + left[:, None, :, inner, None] * right[None, :, None, inner, :]) % self.prime
        return total


def rank_distribution(algorithm: BilinearAlgorithm) -> dict[tuple[int, int, int], int]:
    """How many terms have (u, v, w) of which ranks, over Zp or in characteristic 0, sorted: unchanged by every change of basis.

    Raises:
        InputError: inexact, no matrix product, or of a rank above `MAX_RANK`.
    """
    terms = Terms.of(algorithm)
    triples = zip(*(ranks(factor, terms.prime).tolist() for factor in (terms.u, terms.v, terms.w)), strict=True)
    return dict(sorted(Counter(triples).items()))


def form_names(order: tuple[int, int, int]) -> tuple[dict[str, str], bool]:
    """Which of u, v, w takes the place of each in `permute(algorithm, order)`, and whether they are transposed."""
    place = ORDERS.index(order)
    names = "vuw" if place >= 3 else "uvw"
    shift = place % 3
    return dict(zip("uvw", names[shift:] + names[:shift], strict=True)), place >= 3


def check(algorithm: BilinearAlgorithm) -> None:
    """Whether this package can say anything about it.

    Raises:
        InputError: inexact, no matrix product, or of a rank above `MAX_RANK`.
    """
    if algorithm.target.shape is None:
        raise InputError(f"changes of basis are known for matrix products, not for {algorithm.target.slug}")
    if algorithm.exact is None:
        raise InputError(f"{algorithm.name} is not exact (ring {algorithm.ring}): exact invariants need an exact algorithm")
    if algorithm.rank > MAX_RANK:
        raise InputError(f"{algorithm.name} has rank {algorithm.rank}; its invariants are worked out up to rank {MAX_RANK}")


def is_supported(algorithm: BilinearAlgorithm) -> bool:
    """Whether `check` lets it pass."""
    return algorithm.exact is not None and algorithm.target.shape is not None and algorithm.rank <= MAX_RANK


def _faithful(algorithm: BilinearAlgorithm, prime: int) -> bool:
    """Bounds for traces and, by Hadamard, for the minors of two matrices side by side and of products: all below p.

    A Gaussian integer vanishes modulo a prime ideal over p only when p divides its norm: there the bound is sqrt(p).
    """
    assert algorithm.exact is not None and algorithm.target.shape is not None
    n, m, p = algorithm.target.shape
    complex_valued = any(factor.imaginary is not None for factor in algorithm.exact)
    matrices: list[np.ndarray] = []
    for factor, shape in zip(algorithm.exact, ((n, m), (m, p), (n, p)), strict=True):
        imaginary = np.zeros_like(factor.real) if factor.imaginary is None else factor.imaginary
        common = np.gcd(np.gcd.reduce(factor.real, axis=1), np.gcd.reduce(imaginary, axis=1)).clip(1)  # scaling a term changes nothing
        numbers = (factor.real // common[:, None] + 1j * (imaginary // common[:, None])).reshape(-1, *shape)
        matrices.append(numbers if len(matrices) < 2 else _turned(numbers))
    bounds = [float(np.prod([np.linalg.norm(matrix, axis=(1, 2)).max() for matrix in matrices]))]
    for own, following in zip(matrices, matrices[1:] + matrices[:1], strict=True):
        lines = max(float(np.linalg.norm(own, axis=axis).max()) for axis in (1, 2))
        bounds.append(max(1.0, 2**0.5 * lines) ** max(own.shape[1:]))
        products = np.einsum("rij,sjk->rsik", own, following)
        bounds.append(max(1.0, float(np.linalg.norm(products, axis=3).max())) ** min(products.shape[2:]))
    return max(bounds) * 1.001 < (prime**0.5 if complex_valued else prime)


def _turned(factor: np.ndarray) -> np.ndarray:
    return factor.transpose(0, 2, 1)
