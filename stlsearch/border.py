"""Border-rank families: algorithms with a parameter eps whose map tends to the target as eps tends to 0.

The factors are matrices of Laurent polynomials in eps, and exactly, over Q[eps, 1/eps],

    [[U, V, W]](eps) = T + eps^k E_k + eps^(k+1) E_(k+1) + ...      k >= 1 is the order of the family.

The least rank of such a family is the border rank of T, often below the rank: 10 instead of 11 for <2,2,3> (Bini,
Capovani, Lotti and Romani, Inf. Process. Lett. 8, 1979), 13 instead of 14 for <2,2,4>, 20 instead of 23 for <3,3,3>
(Smirnov, Comput. Math. Math. Phys. 53, 2013). What eps buys in error it costs in amplification:

    e(eps) = |sum_j eps^j E_j|^2/|T|^2         ~ eps^2k |E_k|^2/|T|^2        polynomials in eps, known exactly
    g(eps) = sum_r |u_r|^2|v_r|^2|w_r|^2/|T|^2 ~ G eps^-q

so stored at unit roundoff u a member errs by e + g u^2, least near eps = (q G u^2/(2 k c))^(1/(2k + q)) with
c = |E_k|^2/|T|^2: float16 leaves an error near u^(4k/(2k + q)) and not u^2. A member is a start for a fit, which brings
g down and e with it, far below what eps alone can do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.laurent import LaurentFactors, LaurentMatrix, expand
from stlsearch.targets import Target

LARGEST_EPS = 4.0
SMALLEST_EPS = 1e-12
GRID = 4001  # of log |eps| at first, then refined around its best
REFINEMENTS = 6

Polynomial = dict[int, float]  # a Laurent polynomial in one variable: {exponent: coefficient}


@dataclass(frozen=True, eq=False)
class BorderAlgorithm:
    """A family of algorithms for one target. Make one with `make`, which verifies it.

    Attributes:
        target: the bilinear map that it tends to.
        U, V, W: shapes (r, a), (r, b), (r, c), Laurent polynomials in eps.
        provenance: how it was made; no part of its identity.
    """

    target: Target
    factors: LaurentFactors
    provenance: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def make(target: Target, factors: LaurentFactors, provenance: Mapping[str, object] | None = None) -> BorderAlgorithm:
        """A family, verified over Q[eps, 1/eps].

        Raises:
            InputError: shapes that do not fit, or a family that does not tend to its target.
        """
        for name, factor, extent in zip("UVW", factors, target.dims, strict=True):
            if factor.shape != (factors[0].shape[0], extent):
                raise InputError(f"factor {name} has shape {factor.shape}; for {target.slug} it must be (r, {extent}) with one rank r")
        if target.tensor.dtype != np.int64:
            raise InputError(f"families are for targets of integer entries, not for {target.slug}")
        family = BorderAlgorithm(target, factors, dict(provenance or {}))
        family.check()
        return family

    @property
    def rank(self) -> int:
        return self.factors[0].shape[0]

    @cached_property
    def _expansion(self) -> tuple[dict[int, np.ndarray], int]:
        """T + O(eps^k) less T: {order: integer tensor}, over one scale; a family that is right has no order below 1."""
        orders, scale = expand(self.factors)
        exact = orders.get(0, np.zeros(self.target.dims, dtype=np.int64))
        largest = scale * int(np.abs(self.target.tensor).max(initial=0))
        wide = object if largest >= 2**62 or exact.dtype == object else np.int64
        difference = exact.astype(wide) - self.target.tensor.astype(wide) * scale
        errors = {order: tensor for order, tensor in orders.items() if order != 0}
        if difference.any():
            errors[0] = difference
        return dict(sorted(errors.items())), scale

    def check(self) -> None:
        """Check the Brent equations over Q[eps, 1/eps]: nothing of negative order, and T at order 0.

        Raises:
            InputError: with the first order that is wrong and an entry of it.
        """
        errors, _ = self._expansion
        wrong = next((order for order in errors if order <= 0), None)
        if wrong is None:
            return
        places = np.argwhere(errors[wrong] != 0)
        i, j, k = (int(index) for index in places[0])
        name = self.target.variable
        where = f"{name(0, i)}*{name(1, j)} in {name(2, k)}"
        what = f"order eps^{wrong} does not vanish" if wrong < 0 else f"at eps = 0 it is not {self.target.slug}"
        raise InputError(f"not a family for {self.target.slug}: {what} ({len(places)} wrong coefficients, the first at {where})")

    @property
    def order(self) -> int | None:
        """k, the order of the error: [[U,V,W]] = T + O(eps^k). None when it is exact at every eps."""
        return next(iter(self._expansion[0]), None)

    @cached_property
    def errors(self) -> dict[int, np.ndarray]:
        """{j: E_j} with [[U,V,W]](eps) = T + sum_j eps^j E_j, float64 tensors of shape (a, b, c), none of them zero."""
        found, scale = self._expansion
        return {order: (tensor / scale).astype(np.float64) for order, tensor in found.items()}

    @cached_property
    def error_polynomial(self) -> Polynomial:
        """e(eps) = sum_ij eps^(i+j) <E_i, E_j>/||T||^2."""
        result: Polynomial = {}
        for i, first in self.errors.items():
            for j, second in self.errors.items():
                result[i + j] = result.get(i + j, 0.0) + float((first * second).sum() / self.target.norm_sq)
        return result

    @cached_property
    def amplification_polynomial(self) -> Polynomial:
        """g(eps) = sum_r |u_r(eps)|^2 |v_r(eps)|^2 |w_r(eps)|^2/||T||^2."""
        first, second, third = (factor.square_norms() for factor in self.factors)
        pairs: dict[int, np.ndarray] = {}
        for p, u in first.items():
            for q, v in second.items():
                pairs[p + q] = pairs.get(p + q, 0) + u * v
        result: Polynomial = {}
        for p, uv in pairs.items():
            for q, w in third.items():
                result[p + q] = result.get(p + q, 0.0) + float((uv * w).sum() / self.target.norm_sq)
        return {order: value for order, value in sorted(result.items()) if value}

    def at(self, eps: float) -> BilinearAlgorithm:
        """The member at one eps, over R (in normal form); a family that is exact at every eps gives that too, as floats.

        Raises:
            InputError: eps is 0 or not finite, or the numbers overflow.
        """
        if not np.isfinite(eps) or eps == 0:
            raise InputError(f"eps must be a number other than 0, not {eps}")
        with np.errstate(all="ignore"):
            U, V, W = (factor.at(eps) for factor in self.factors)
        provenance = {**self.provenance, "method": "border", "family": self.id, "eps": float(eps), "order": self.order}
        return BilinearAlgorithm.from_floats(self.target, U, V, W, provenance=provenance)

    def eps_for_amplification(self, bound: float) -> float:
        """The eps of least e(eps) + g(eps) u^2 with g(eps) <= bound, u the unit roundoff of float64 in which a member is stored.

        Raises:
            InputError: no eps meets the bound.
        """
        below = bound * (1 - 1e-9)  # g is measured again from the factors, which rounds in another way
        square = UNIT_ROUNDOFF["float64"] ** 2
        eps, value = _minimise(lambda x: np.where(self._g(x) <= below, self._e(x) + square * self._g(x), np.inf))
        if not np.isfinite(value):
            raise InputError(f"no eps gives an amplification g of at most {bound:g}: the least is {_minimise(self._g)[1]:.4g}")
        return eps

    def eps_for_dtype(self, dtype: str) -> float:
        """The eps of least e(eps) + g(eps) u^2 for values stored as `dtype`.

        Raises:
            InputError: an unknown dtype.
        """
        if dtype not in UNIT_ROUNDOFF:
            raise InputError(f"unknown storage dtype {dtype!r:.40}; valid: {', '.join(UNIT_ROUNDOFF)}")
        square = UNIT_ROUNDOFF[dtype] ** 2
        return _minimise(lambda x: self._e(x) + square * self._g(x))[0]

    def with_provenance(self, **entries: object) -> BorderAlgorithm:
        """The same family with further provenance."""
        return replace(self, provenance={**self.provenance, **entries})

    @cached_property
    def id(self) -> str:
        """SHA-256 (64 hex digits) of target and factors: of {"factors", "target"} with sorted keys and no spaces,
        a factor being {"denominator", "exponents", "numerators"}."""
        content = {"factors": [factor_document(factor) for factor in self.factors], "target": self.target.describe()}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def name(self) -> str:
        """A name such as 2x2x3_r10_eps_1a2b3c4d."""
        return f"{self.target.slug}_r{self.rank}_eps_{self.id[:8]}"

    def _e(self, eps: np.ndarray) -> np.ndarray:
        return _evaluate(self.error_polynomial, eps)

    def _g(self, eps: np.ndarray) -> np.ndarray:
        return _evaluate(self.amplification_polynomial, eps)


def factor_document(factor: LaurentMatrix) -> dict[str, object]:
    """A factor as plain JSON values: (sum_q eps^exponents[q] numerators[q])/denominator."""
    return {"exponents": list(factor.exponents), "numerators": factor.numerators.tolist(), "denominator": factor.denominator}


def _evaluate(polynomial: Polynomial, eps: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum((value * eps**order for order, value in polynomial.items()), np.zeros_like(eps))
    return np.maximum(total, 0.0)  # a square: rounding may leave a tiny negative number


def _minimise(score: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The eps of either sign that minimises a function of it, and the value: a grid in log |eps|, refined around its best."""
    best, value = LARGEST_EPS, float("inf")
    for sign in (1.0, -1.0):  # a positive eps on a tie
        low, high = np.log(SMALLEST_EPS), np.log(LARGEST_EPS)
        for _ in range(REFINEMENTS):
            grid = np.linspace(low, high, GRID)
            values = np.nan_to_num(score(sign * np.exp(grid)), nan=np.inf, posinf=np.inf)
            index = int(values.argmin())
            if values[index] < value * (1 - 1e-12):
                best, value = sign * float(np.exp(grid[index])), float(values[index])
            low, high = grid[max(index - 1, 0)], grid[min(index + 1, GRID - 1)]
    return best, value
