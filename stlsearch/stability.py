"""Stability figures by the literature's formulas: growth factors and the forward-error bounds they give.

For an algorithm <n,m,p;r> with u_r, v_r, w_r its rows, computed in floating point of unit roundoff u through L levels of recursion on
(n^L x, K) times (K, p^L z), with the ordinary product on blocks of inner size K_L = K/m^L, to first order in u:

**Largest entries.** With a_r = sum_i |u_ri| and b_r = sum_j |v_rj|, the stability vector e_k = sum_r a_r b_r |w_rk| and its largest
entry E say how far the entries of intermediate results outgrow those of the inputs (Brent 1970; Bini and Lotti, Numer. Math. 36,
1980; Demmel, Dumitriu, Holtz and Kleinberg, Numer. Math. 106, 2007; Higham, "Accuracy and Stability of Numerical Algorithms",
chapter 23; Ballard, Benson, Druinsky, Lipshitz and Schwartz, arXiv 1507.00687). The roundings on the way are counted by non-zeros,
alpha_r of u_r, beta_r of v_r, gamma_k of column k of W, each one addition less than that and one multiplication by the coefficient;
one more where a denominator is no power of 2, since such coefficients are rounded themselves. The prefactor is
q = max_k (gamma_k + max over the products in it of alpha_r + beta_r). Then |C' - C| <= f_L |A| |B| u in the largest entries, with

    f_0(K) = K^2,    f_L(K) = max_k sum_r a_r b_r |w_rk| ((alpha_r + beta_r + gamma_k) K/m + f_(L-1)(K/m)),

which is what the usual proof gives before it is simplified to the closed form of arXiv 1507.00687, K_L (K_L + q L) E^L.

**Frobenius norms.** The growth factor is gamma = sum_r |u_r| |v_r| |w_r| in 2-norms (Dai and Lim, Numer. Math. 155, 2023; Dumas,
Pernet and Sedoglavic, arXiv 2402.05630, whose gamma_(2,1) it is). Rescaling of terms and orthogonal changes of basis leave it as it is, and
|C' - C|_F <= h_L |A|_F |B|_F u with

    h_0(K) = K,    h_L(K) = gamma (q + h_(L-1)(K/m)) = gamma^L K_L + q (gamma + ... + gamma^L).

Both hold for the worst rounding errors on the worst matrices; random ones come nowhere near. Do not confuse gamma with the
amplification g = sum_r |u_r|^2 |v_r|^2 |w_r|^2/|T|^2 of `stlsearch.algorithm`, the mean effect of independent rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of


@dataclass(frozen=True)
class Stability:
    """The stability figures of one exact algorithm.

    Attributes:
        growth: gamma, the sum over terms of |u| |v| |w| in 2-norms.
        vector: e_k, one for each entry of C in row-major order.
        rounding: sum_r a_r b_r |w_rk| (alpha_r + beta_r + gamma_k), one for each entry of C.
        prefactor: q, the most roundings on the way from an input to an output.
        inner: m, by which the inner dimension shrinks at every level.
    """

    growth: float
    vector: tuple[Fraction, ...]
    rounding: tuple[Fraction, ...]
    prefactor: int
    inner: int

    @property
    def emax(self) -> Fraction:
        """E, the largest entry of the stability vector."""
        return max(self.vector)

    def max_bound(self, inner: int, levels: int) -> Fraction:
        """f_L(K): the error's largest entry is at most f_L(K) max|A| max|B| u + O(u^2).

        Args:
            inner: K, a multiple of m^L.
            levels: L >= 0; 0 is the ordinary product.

        Raises:
            InputError: a negative number of levels, or an inner dimension they do not divide.
        """
        leaf = self._leaf(inner, levels)
        bound = Fraction(leaf * leaf)
        for _ in range(levels):
            bound = max(d * leaf + e * bound for d, e in zip(self.rounding, self.vector, strict=True))
            leaf *= self.inner
        return bound

    def closed_max_bound(self, inner: int, levels: int) -> Fraction:
        """K_L (K_L + q L) E^L, the closed form of arXiv 1507.00687, never below `max_bound`; arguments as there."""
        leaf = self._leaf(inner, levels)
        return leaf * (leaf + self.prefactor * levels) * self.emax**levels

    def frobenius_bound(self, inner: int, levels: int) -> float:
        """h_L(K): the error's Frobenius norm is at most h_L(K) |A|_F |B|_F u + O(u^2); arguments as for `max_bound`."""
        bound = float(self._leaf(inner, levels))
        for _ in range(levels):
            bound = self.growth * (self.prefactor + bound)
        return bound

    def to_dict(self) -> dict[str, object]:
        """JSON values; exact fractions as text."""
        return {
            "growth_factor": self.growth,
            "emax": str(self.emax),
            "stability_vector": [str(value) for value in self.vector],
            "prefactor": self.prefactor,
        }

    def _leaf(self, inner: int, levels: int) -> int:
        if levels < 0:
            raise InputError(f"levels must be at least 0, not {levels}")
        if inner < 1 or inner % self.inner**levels:
            raise InputError(f"an inner dimension of {inner} is no multiple of {self.inner}^{levels}")
        return inner // self.inner**levels


def growth_factor(algorithm: BilinearAlgorithm) -> float:
    """gamma = sum over terms of |u| |v| |w| in 2-norms: 14.83 for Strassen's algorithm, 17.85 for Winograd's, nmp by definition.

    Raises:
        InputError: an algorithm over Zp, where there are no norms.
    """
    if modulus_of(algorithm.ring) is not None:
        raise InputError(f"an algorithm over {algorithm.ring} has no growth factor: no norms there")
    norms = [np.linalg.norm(factor, axis=1) for factor in (algorithm.U, algorithm.V, algorithm.W)]
    return float((norms[0] * norms[1] * norms[2]).sum())


def stability(algorithm: BilinearAlgorithm) -> Stability:
    """The stability figures of an algorithm exact over Z, Z[1/2] or Q; all but the growth factor are exact.

    Raises:
        InputError: an algorithm over another ring, or not a matrix product.
    """
    if algorithm.exact is None or not algorithm.is_real:
        raise InputError(f"stability figures are for algorithms exact over Z, Z[1/2] or Q, not over {algorithm.ring}")
    if algorithm.target.shape is None:
        raise InputError(f"stability figures are for matrix products, not for {algorithm.target.slug}")
    U, V, W = algorithm.exact
    decoder = ExactMatrix.make(W.real.T, W.denominator)
    sizes = [_row_sum(u) * _row_sum(v) for u, v in zip(_rows(U), _rows(V), strict=True)]
    before = [alpha + beta for alpha, beta in zip(_roundings(U), _roundings(V), strict=True)]
    vector, rounding, prefactor = [], [], 0
    for row, after in zip(_rows(decoder), _roundings(decoder), strict=True):
        used = [place for place, value in enumerate(row) if value]
        parts = [sizes[place] * abs(row[place]) for place in used]
        vector.append(sum(parts, Fraction(0)))
        rounding.append(sum((part * (after + before[place]) for part, place in zip(parts, used, strict=True)), Fraction(0)))
        prefactor = max(prefactor, after + max((before[place] for place in used), default=0))
    return Stability(growth_factor(algorithm), tuple(vector), tuple(rounding), prefactor, algorithm.target.shape[1])


def _rows(matrix: ExactMatrix) -> list[list[Fraction]]:
    return [[Fraction(value, matrix.denominator) for value in row] for row in matrix.real.tolist()]


def _row_sum(row: list[Fraction]) -> Fraction:
    return sum((abs(value) for value in row), Fraction(0))


def _roundings(matrix: ExactMatrix) -> list[int]:
    """Roundings on the way through each row's sum: its non-zeros, and one if a coefficient has no finite binary expansion."""
    return [sum(1 for value in row if value) + any(value.denominator & (value.denominator - 1) for value in row) for row in _rows(matrix)]
