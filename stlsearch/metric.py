"""The metric of an error: uncentred second moments of the tiles that a product will meet.

For X = vec of an activation tile with Sa = E[X X^T] (a x a) and an independent weight tile with Sb = E[B B^T] (b x b),
the relative mean squared error of a bilinear algorithm with residual tensor R = T - [[U,V,W]] is

    E|R(X, B)|^2 / E|T(X, B)|^2 = ||R_w||^2/||T_w||^2,   R_w[i', j', k] = sum_ij Sa^(1/2)[i, i'] Sb^(1/2)[j, j'] R[i, j, k]:

the white problem again, in the frame U_w = U Sa^(1/2), V_w = V Sb^(1/2), W_w = W (weighted least squares; the
Strassen-Tile paper, arXiv 2503.12211, names the white case). Solvers work in that frame and know nothing of it;
U = U_w Sa^(-1/2) leads back. Both moments count up to a positive factor.

What it assumes: uncentred moments (a mean is part of the signal), weights independent of activations and of zero mean,
so that tiles along the inner dimension err independently. Errors measured on data say how true that is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stlsearch.errors import InputError
from stlsearch.targets import Target

if TYPE_CHECKING:
    from stlsearch.algorithm import BilinearAlgorithm

FLOOR = 1e-6
"""Eigenvalues of a moment are taken to be at least this share of its largest one.

Directions that the data never or hardly show would otherwise cost nothing, and a basis would be free to do anything
there (and U = U_w Sa^(-1/2) would not exist). With the floor it is asked for a little accuracy in them as well.
"""

SYMMETRY = 1e-9  # relative asymmetry that rounding explains


@dataclass(frozen=True, eq=False)
class Frame:
    """The symmetric square roots of the moments and their inverses, scaled so that ||T_w|| = ||T||.

    Attributes:
        activation, activation_inverse: (a, a).
        weight, weight_inverse: (b, b).
    """

    activation: np.ndarray
    weight: np.ndarray
    activation_inverse: np.ndarray
    weight_inverse: np.ndarray

    def weighted(self, tensor: np.ndarray) -> np.ndarray:
        """T_w of a tensor (a, b, c)."""
        return np.einsum("ai,bj,abk->ijk", self.activation, self.weight, tensor, optimize=True)


@dataclass(frozen=True, eq=False)
class Metric:
    """Second moments of activation and weight tiles, and which rows and channels make a tile.

    Attributes:
        activation: Sa = E[x x^T] for x = vec of an n x m activation tile, row-major: token by token; shape (a, a).
        weight: Sb = E[b b^T] for b = vec of an m x p weight tile, row-major; shape (b, b).
        layout: plain JSON values: "tokens" (how a tile's rows are chosen), "channels" (a permutation of the inner
            dimension cut into tiles, absent when it is cut as it stands), "source" and what else is worth knowing.
    """

    activation: np.ndarray
    weight: np.ndarray
    layout: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("activation", "weight"):
            object.__setattr__(self, name, _checked(name, getattr(self, name)))

    def __eq__(self, other: object) -> bool:
        """Whether moments and layout are the same."""
        if not isinstance(other, Metric):
            return NotImplemented
        moments = (self.activation, other.activation), (self.weight, other.weight)
        return all(np.array_equal(*pair) for pair in moments) and self.layout == other.layout

    def __hash__(self) -> int:
        return hash((self.activation.tobytes(), self.weight.tobytes()))

    @staticmethod
    def white(target: Target) -> Metric:
        """Identity moments: the error e of the plain problem."""
        a, b, _ = target.dims
        return Metric(np.eye(a), np.eye(b), {"source": "white"})

    @staticmethod
    def ar1(target: Target, tokens: float, channels: float) -> Metric:
        """kron(AR(1) tokens, AR(1) channels) on the n x m activation tile, AR(1)[s, t] = rho^|s - t|; white weights.

        Raises:
            InputError: not a matrix product, or a correlation outside (-1, 1).
        """
        if target.shape is None:
            raise InputError(f"the metric ar1 is for matrix products, not for {target.slug}")
        if not (abs(tokens) < 1 and abs(channels) < 1):
            raise InputError(f"the correlations of metric ar1 must lie between -1 and 1, not {tokens:g},{channels:g}")
        n, m, _ = target.shape
        moments = np.kron(_autoregressive(n, tokens), _autoregressive(m, channels))
        return Metric(moments, np.eye(target.dims[1]), {"tokens": "neighbouring", "source": f"ar1:{tokens:g},{channels:g}"})

    @staticmethod
    def named(text: str, target: Target) -> Metric:
        """The metric of a name: ``white`` or ``ar1:0.7,0.3`` (correlation of neighbouring tokens, of neighbouring channels).

        Raises:
            InputError: another name, or numbers that make no sense.
        """
        if text == "white":
            return Metric.white(target)
        match = re.fullmatch(r"ar1:([-+0-9.eE]+),([-+0-9.eE]+)", text)
        try:
            tokens, channels = (float(number) for number in match.groups()) if match else (None, None)
        except ValueError:
            tokens = channels = None
        if tokens is None or channels is None:
            raise InputError(f"unknown metric {text!r:.60}; valid: white, ar1:TOKENS,CHANNELS such as ar1:0.7,0.3, and data")
        return Metric.ar1(target, tokens, channels)

    @property
    def source(self) -> str:
        """Where the moments come from, in a word or two."""
        return str(self.layout.get("source", "second moments of data"))

    @property
    def is_white(self) -> bool:
        """Both moments are multiples of the identity: the plain problem."""
        return all(np.array_equal(moment, moment[0, 0] * np.eye(len(moment))) for moment in (self.activation, self.weight))

    @property
    def channels(self) -> np.ndarray | None:
        """The order in which channels are cut into tiles, or None as they stand."""
        order = self.layout.get("channels")
        return None if order is None else np.asarray(order, dtype=np.int64)

    def describe(self) -> dict[str, object]:
        """The stored form, as in docs/format.md: {"activation", "weight", "layout"}."""
        return {"activation": self.activation.tolist(), "weight": self.weight.tolist(), "layout": dict(self.layout)}

    def check(self, target: Target) -> Metric:
        """Itself when its sizes are those of the target.

        Raises:
            InputError: moments of other sizes.
        """
        a, b, _ = target.dims
        if self.activation.shape != (a, a) or self.weight.shape != (b, b):
            raise InputError(
                f"{target.slug} needs second moments of {a} x {a} and {b} x {b}, not "
                f"{' and '.join('x'.join(map(str, moment.shape)) for moment in (self.activation, self.weight))}"
            )
        return self

    def frame(self, target: Target) -> Frame:
        """The frame in which the weighted problem is white."""
        self.check(target)
        (root_a, inverse_a), (root_b, inverse_b) = self._roots
        frame = Frame(root_a, root_b, inverse_a, inverse_b)
        # Solvers have absolute constants (damping, floors) that suit ||T||^2, and only ratios count.
        scale = float(np.sqrt(target.norm_sq / np.square(frame.weighted(target.tensor)).sum()))
        return frame if scale == 1 else Frame(root_a, scale * root_b, inverse_a, inverse_b / scale)

    def error(self, algorithm: BilinearAlgorithm) -> float:
        """e_metric = ||R_w||^2/||T_w||^2; 0 for an algorithm that is exact."""
        if algorithm.error == 0:
            return 0.0
        frame = self.frame(algorithm.target)
        residual = algorithm.target.tensor - np.einsum("ri,rj,rk->ijk", algorithm.U, algorithm.V, algorithm.W, optimize=True)
        return float((np.abs(frame.weighted(residual)) ** 2).sum() / algorithm.target.norm_sq)

    def amplification(self, algorithm: BilinearAlgorithm) -> float:
        """g_metric = sum_r |u_r|^2 |v_r|^2 |w_r|^2/||T_w||^2 in the weighted frame.

        |u_r|^2 = u_r Sa u_r^T is then the mean square of the encoded value, which is what rounding is relative to.
        """
        frame = self.frame(algorithm.target)
        factors = (algorithm.U @ frame.activation, algorithm.V @ frame.weight, algorithm.W)
        sizes = [(np.abs(factor) ** 2).sum(axis=1) for factor in factors]
        return float((sizes[0] * sizes[1] * sizes[2]).sum() / algorithm.target.norm_sq)

    @cached_property
    def _roots(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return _root(self.activation), _root(self.weight)


def _autoregressive(size: int, correlation: float) -> np.ndarray:
    steps = np.arange(size)
    return np.power(correlation, np.abs(steps[:, None] - steps), dtype=np.float64)


def _checked(name: str, moment: np.ndarray) -> np.ndarray:
    """A second moment made read-only; symmetric, non-negative diagonal, not zero, no clearly negative eigenvalue."""
    moment = np.array(moment, dtype=np.float64)
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not np.isfinite(moment).all():
        raise InputError(f"metric.{name} must be a square matrix of finite numbers")
    size = np.abs(moment).max()
    if (moment.diagonal() < 0).any() or np.abs(moment - moment.T).max() > SYMMETRY * size:
        raise InputError(f"metric.{name} must be a symmetric matrix with a non-negative diagonal, a second moment")
    if not size > 0:
        raise InputError(f"metric.{name} is zero: a second moment of nothing")
    if np.linalg.eigvalsh((moment + moment.T) / 2)[0] < -1e-6 * size:
        raise InputError(f"metric.{name} has a negative eigenvalue: it is no second moment")
    moment.setflags(write=False)
    return moment


def _root(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric square root of a moment with its eigenvalues floored, and the inverse of it."""
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    values = np.sqrt(values.clip(FLOOR * values[-1]))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
