"""The noun: a bilinear algorithm, three factor matrices and the bilinear map they compute.

C = W^T ((U vec A) * (V vec B)), one row of each factor per multiplication, so the encoders are
matmul-ready. With target tensor T (see `stlsearch.targets`), two measures decide what it is worth:

- e = ||T - [[U,V,W]]||^2 / ||T||^2, the *squared* relative error, which equals the relative mean
  squared error of the product for white inputs;
- g = sum_r |u_r|^2 |v_r|^2 |w_r|^2 / ||T||^2, the amplification: rounding the encoded values and
  products at unit roundoff u adds about g u^2 to the relative mean squared error.

Both are invariant under rescaling of terms and under orthogonal changes of basis.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from stlsearch import exact
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, Factors, Mismatch
from stlsearch.metric import Metric
from stlsearch.targets import Target

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "e4m3": 2.0**-4}
"""Unit roundoff u by storage dtype: half the distance from 1 to the next number (`torch.finfo.eps` is 2u)."""


@dataclass(frozen=True, eq=False)
class BilinearAlgorithm:
    """A bilinear algorithm. Make one with `from_floats` or `from_exact`, which check it.

    Attributes:
        target: the bilinear map, with dims (a, b, c).
        ring: where the coefficients live: Z2, Zp, Z, Z[1/2], Q, Q(i), R or C.
        U, V, W: float64 (complex128 over C and Q(i)), shapes (r, a), (r, b), (r, c), read-only.
        exact: the three factors in exact form for exact rings, None over R and C.
        metric: None for white inputs, else the second moments the basis was fitted for. The factors are those
            of the product itself all the same, in no weighted frame.
        provenance: how it was made, enough to make it again; no part of its identity.
    """

    target: Target
    ring: str
    U: np.ndarray
    V: np.ndarray
    W: np.ndarray
    exact: Factors | None = None
    metric: Metric | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def from_floats(
        target: Target,
        U: np.ndarray,
        V: np.ndarray,
        W: np.ndarray,
        *,
        metric: Metric | None = None,
        provenance: Mapping[str, object] | None = None,
        balance: bool = True,
    ) -> BilinearAlgorithm:
        """An inexact algorithm over R (or C), in normal form unless `balance` is False.

        Normal form: |u| = |v| = |w| in every term, the largest coefficient of u and of v positive,
        terms sorted by decreasing size. It leaves the computed map unchanged.

        Raises:
            InputError: shapes that do not fit the target, or NaN or infinite values.
        """
        complex_valued = any(np.iscomplexobj(factor) for factor in (U, V, W))
        dtype = np.complex128 if complex_valued else np.float64
        U, V, W = (np.array(factor, dtype=dtype) for factor in (U, V, W))
        _check_shapes(target, [factor.shape for factor in (U, V, W)])
        if not all(np.isfinite(factor).all() for factor in (U, V, W)):
            raise InputError("the factors hold NaN or infinite values")
        if balance:
            with np.errstate(over="ignore", invalid="ignore"):
                U, V, W = _normal_form(U, V, W)
            if not all(np.isfinite(factor).all() for factor in (U, V, W)):
                raise InputError("the factors are too large or too small to be balanced: |u| |v| |w| of a term overflows")
        for factor in (U, V, W):
            factor.setflags(write=False)
        return BilinearAlgorithm(target, "C" if complex_valued else "R", U, V, W, None, metric, dict(provenance or {}))

    @staticmethod
    def from_exact(
        target: Target,
        U: ExactMatrix | object,
        V: ExactMatrix | object,
        W: ExactMatrix | object,
        *,
        ring: str | None = None,
        provenance: Mapping[str, object] | None = None,
        verify: bool = True,
    ) -> BilinearAlgorithm:
        """An exact algorithm over `ring` (default: the smallest of Z, Z[1/2], Q, Q(i) holding it).

        Factors are `ExactMatrix`, or rows of integers or fractions.

        Raises:
            InputError: shapes that do not fit, or, with `verify`, an algorithm that is not exact.
        """
        factors: Factors = tuple(  # type: ignore[assignment]
            factor if isinstance(factor, ExactMatrix) else ExactMatrix.from_fractions(factor)  # type: ignore[arg-type]
            for factor in (U, V, W)
        )
        _check_shapes(target, [factor.shape for factor in factors])
        ring = exact.check_ring(ring or exact.smallest_ring(factors))
        if ring in ("R", "C"):
            raise InputError(f"{ring} is not an exact ring; valid: Z2, Z3, ... Zp, {', '.join(exact.EXACT_RINGS)}")
        floats = [factor.to_float() for factor in factors]
        for array in floats:
            array.setflags(write=False)
        algorithm = BilinearAlgorithm(target, ring, floats[0], floats[1], floats[2], factors, None, dict(provenance or {}))
        if verify and (wrong := algorithm.mismatch()).count:
            i, j, k, what = wrong.examples[0]
            where = algorithm.describe_entry(i, j, k)
            raise InputError(f"not exact over {ring}: {wrong.count} wrong coefficients, the first at {where}: {what}")
        return algorithm

    @property
    def rank(self) -> int:
        """r, the number of multiplications."""
        return len(self.U)

    @property
    def is_exact(self) -> bool:
        """Stored over an exact ring (verified on construction and on load)."""
        return self.exact is not None

    @property
    def is_real(self) -> bool:
        """Usable on real matrices: coefficients real and of characteristic 0."""
        return exact.modulus_of(self.ring) is None and not any(np.iscomplexobj(factor) for factor in (self.U, self.V, self.W))

    @property
    def is_ternary(self) -> bool:
        """Every coefficient is -1, 0 or 1."""
        return self.exact is not None and all(bool(np.isin(factor, (-1, 0, 1)).all()) for factor in (self.U, self.V, self.W))

    def __eq__(self, other: object) -> bool:
        """Whether both are the same algorithm (by `id`) for the same metric, however they were found."""
        return isinstance(other, BilinearAlgorithm) and self.id == other.id and self.metric == other.metric

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def error(self) -> float:
        """e = ||T - [[U,V,W]]||^2/||T||^2; exactly 0 over an exact ring once verified in that ring."""
        if self.exact is not None and self.mismatch().count == 0:
            return 0.0
        difference = self.target.tensor - cp_tensor(self.U, self.V, self.W)
        return float((np.abs(difference) ** 2).sum() / self.target.norm_sq)

    @cached_property
    def amplification(self) -> float:
        """g = sum_r |u_r|^2 |v_r|^2 |w_r|^2/||T||^2."""
        sizes = [(np.abs(factor) ** 2).sum(axis=1) for factor in (self.U, self.V, self.W)]
        return float((sizes[0] * sizes[1] * sizes[2]).sum() / self.target.norm_sq)

    @cached_property
    def metric_error(self) -> float | None:
        """e under the algorithm's own metric (see `stlsearch.metric`); None for one made for white inputs."""
        return None if self.metric is None else self.metric.error(self)

    @cached_property
    def metric_amplification(self) -> float | None:
        """g in the frame of the algorithm's own metric; None for one made for white inputs."""
        return None if self.metric is None else self.metric.amplification(self)

    def total_error(self, dtype: str) -> float:
        """e + g u^2: the predicted relative mean squared error when values are stored as `dtype`."""
        return self.error + self.amplification * UNIT_ROUNDOFF[dtype] ** 2

    @property
    def missing_products(self) -> float:
        """k = ||T||^2 e: the error counted in scalar products (64e for 4 x 4 tiles)."""
        return self.target.norm_sq * self.error

    @cached_property
    def nonzeros(self) -> tuple[int, int, int]:
        """Non-zero coefficients of U, V and W."""
        return tuple(int(np.count_nonzero(factor)) for factor in (self.U, self.V, self.W))  # type: ignore[return-value]

    @property
    def additions(self) -> int:
        """Scalar additions of the three linear maps done naively: one less than the terms of each sum."""
        encoders = sum(int((np.count_nonzero(factor, axis=1) - 1).clip(0).sum()) for factor in (self.U, self.V))
        return encoders + int((np.count_nonzero(self.W, axis=0) - 1).clip(0).sum())

    def mismatch(self) -> Mismatch:
        """Where an exact algorithm misses its target, checked in exact arithmetic; count 0 when it is exact.

        Raises:
            InputError: an algorithm over R or C, of which this cannot be asked.
        """
        if self.exact is None:
            raise InputError(f"an algorithm over {self.ring} is not exact and cannot be verified exactly")
        return exact.mismatch(self.target, self.exact, self.ring)

    def valid_rings(self) -> list[str]:
        """The rings over which it is exact; empty over R and C."""
        return [] if self.exact is None else exact.valid_rings(self.target, self.exact, self.ring)

    def describe_entry(self, i: int, j: int, k: int) -> str:
        """One tensor entry in words: ``a12*b21 in c11``."""
        name = self.target.variable
        return f"{name(0, i)}*{name(1, j)} in {name(2, k)}"

    def apply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """C = W^T((U vec A) * (V vec B)) for one pair: a (..., a), b (..., b) -> (..., c), vectorised row-major."""
        return ((a @ self.U.T) * (b @ self.V.T)) @ self.W

    def with_provenance(self, **entries: object) -> BilinearAlgorithm:
        """The same algorithm with further provenance."""
        return replace(self, provenance={**self.provenance, **entries})

    @cached_property
    def id(self) -> str:
        """SHA-256 (64 hex digits) of target, ring and factors as stored; provenance and metric play no part.

        The hashed text is the JSON object {"factors", "ring", "target"}, keys sorted, no spaces. An exact
        factor is {"denominator", "imaginary", "real"} (imaginary null when absent); an inexact one the same
        without denominator, its numbers written as the 16 hex digits of the big-endian IEEE 754 double.
        """
        if self.exact is not None:
            factors: list[dict] = [
                {
                    "denominator": factor.denominator,
                    "imaginary": None if factor.imaginary is None else factor.imaginary.tolist(),
                    "real": factor.real.tolist(),
                }
                for factor in self.exact
            ]
        else:
            factors = [
                {
                    "imaginary": _hex_rows(factor.imag) if np.iscomplexobj(factor) else None,
                    "real": _hex_rows(factor.real),
                }
                for factor in (self.U, self.V, self.W)
            ]
        content = {"factors": factors, "ring": self.ring, "target": self.target.describe()}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Its stable name, e.g. 4x4x4_r24_R_1a2b3c4d: target, rank, ring and the first 8 digits of `id`."""
        ring = {"Z[1/2]": "Zhalf", "Q(i)": "Qi"}.get(self.ring, self.ring)
        return f"{self.target.slug}_r{self.rank}_{ring}_{self.id[:8]}"

    def __repr__(self) -> str:
        return f"<BilinearAlgorithm {self.name}: e={self.error:.4g}, g={self.amplification:.4g}>"


def cp_tensor(U: np.ndarray, V: np.ndarray, W: np.ndarray) -> np.ndarray:
    """[[U,V,W]] = sum_r u_r (x) v_r (x) w_r, shape (a, b, c)."""
    pairs = (V[:, :, None] * W[:, None, :]).reshape(len(V), -1)
    return (U.T @ pairs).reshape(U.shape[1], V.shape[1], W.shape[1])


def _check_shapes(target: Target, shapes: list[tuple[int, ...]]) -> None:
    for name, shape, extent in zip("UVW", shapes, target.dims, strict=True):
        if len(shape) != 2 or shape[1] != extent or shape[0] < 1 or shape[0] != shapes[0][0]:
            expected = ", ".join(f"(r, {d})" for d in target.dims)
            raise InputError(f"factor {name} has shape {shape}; for {target.slug} U, V, W must be {expected} with one rank r >= 1")


def _normal_form(U: np.ndarray, V: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    norms = np.stack([np.linalg.norm(factor, axis=1) for factor in (U, V, W)])
    size = np.cbrt(norms.prod(axis=0))
    scale = np.divide(size, norms, out=np.zeros_like(norms), where=norms > 0)
    U, V, W = U * scale[0, :, None], V * scale[1, :, None], W * scale[2, :, None]
    rows = np.arange(len(U))
    for factor in (U, V):  # the leading coefficient's phase moves into w
        lead = factor[rows, np.abs(factor).argmax(axis=1)]
        phase = np.divide(lead, np.abs(lead), out=np.ones_like(lead), where=lead != 0)
        factor /= phase[:, None]
        W = W * phase[:, None]
    order = np.argsort(-size, kind="stable")
    # Adding 0 turns -0.0 into 0.0, so equal factors have equal bytes.
    return U[order] + 0.0, V[order] + 0.0, W[order] + 0.0


def _hex_rows(matrix: np.ndarray) -> list[list[str]]:
    return [[struct.pack(">d", value + 0.0).hex() for value in row] for row in matrix.tolist()]
