"""How other programs lay out the factors of a matrix algorithm, and which of it a file means.

Ours is row-major A, B and C, one row of a factor per product. Elsewhere W often belongs to C^T (the form in which the
matrix product is cyclically symmetric: AlphaTensor, AlphaEvolve, flip graphs), all three may be column-major
(Benson and Ballard), and factors may hold one product per column. No file says so reliably. A wrong guess is a wrong
matrix product, which random matrices expose: the first convention that multiplies them correctly is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from stlsearch.laurent import LaurentFactors, expand
from stlsearch.targets import Target

Shape = tuple[int, int, int]
TRIALS = 64  # random products; one exposes almost every wrong guess, but approximate algorithms are told apart by their mean error


@dataclass(frozen=True, eq=False)
class Convention:
    """The column order that turns each factor of a file into ours.

    Attributes:
        name: in words, such as "W of C^T".
        columns: the order of the columns of U, V and W, each a permutation.
    """

    name: str
    columns: tuple[np.ndarray, np.ndarray, np.ndarray]


def conventions(shape: Shape) -> Iterator[Convention]:
    """Ours first, then C^T, all column-major, and whatever else is left of the eight."""
    n, m, p = shape
    sides = ((n, m), (m, p), (n, p))
    order: list[tuple[bool, ...]] = [(False, False, False), (False, False, True), (True, True, True)]
    order += [flips for flips in product((False, True), repeat=3) if flips not in order]
    for flips in order:
        columns = [_transposed(*side) if flip else np.arange(side[0] * side[1]) for side, flip in zip(sides, flips, strict=True)]
        turned = [f"{factor} of {letter}^T" for factor, letter, flip in zip("UVW", "ABC", flips, strict=True) if flip]
        yield Convention(", ".join(turned) or "row-major", (columns[0], columns[1], columns[2]))


def detect(target: Target, factors: Sequence[np.ndarray], modulus: int | None = None, trials: int = TRIALS) -> tuple[Convention, float]:
    """The convention under which the factors multiply `trials` random matrices best, and the mean squared error there, relative.

    Over Zp (`modulus`) the error counts wrong entries.
    """
    assert target.shape is not None
    wide = [factor if modulus is None else np.asarray(factor).astype(np.int64) % modulus for factor in factors]
    sample = _sampler(target, modulus, trials)
    candidates: list[tuple[float, int, Convention]] = []
    for convention in conventions(target.shape):
        error = sample([factor[:, order] for factor, order in zip(wide, convention.columns, strict=True)])
        if error < 1e-18:
            return convention, error
        candidates.append((error, len(candidates), convention))
    error, _, convention = min(candidates, key=lambda entry: entry[:2])
    return convention, error


def _sampler(target: Target, modulus: int | None, trials: int) -> Callable[[Sequence[np.ndarray]], float]:
    random = np.random.default_rng(20241)
    a, b, _ = target.dims
    assert target.shape is not None
    n, m, p = target.shape
    x: np.ndarray = random.normal(size=(trials, a))
    y: np.ndarray = random.normal(size=(trials, b))
    if modulus is not None:
        x, y = random.integers(modulus, size=(trials, a)), random.integers(modulus, size=(trials, b))
    right = (x.reshape(-1, n, m) @ y.reshape(-1, m, p)).reshape(len(x), -1)

    def error(factors: Sequence[np.ndarray]) -> float:
        U, V, W = factors
        if modulus is None:
            return float((np.abs(((x @ U.T) * (y @ V.T)) @ W - right) ** 2).sum() / (right**2).sum())
        products = ((x @ U.T) % modulus) * ((y @ V.T) % modulus) % modulus
        return float(((products @ W - right) % modulus != 0).mean())

    return error


def _transposed(rows: int, columns: int) -> np.ndarray:
    """The column order that turns vec M^T into vec M, M of shape (rows, columns)."""
    return np.arange(rows * columns).reshape(columns, rows).T.ravel()


def detect_family(target: Target, factors: LaurentFactors) -> tuple[Convention, LaurentFactors]:
    """The convention under which a family in eps tends to the product of a random pair of matrices, and its factors turned.

    Exact: vec C is expanded in eps and must be the product at order 0 and nothing below. Ours when none fits.
    """
    assert target.shape is not None
    n, m, p = target.shape
    random = np.random.default_rng(20241)
    x, y = random.integers(-9, 10, size=n * m), random.integers(-9, 10, size=m * p)
    right = (x.reshape(n, m) @ y.reshape(m, p)).ravel()
    found = list(conventions(target.shape))
    for convention in found:
        U, V, W = (factor.columns(order) for factor, order in zip(factors, convention.columns, strict=True))
        orders, scale = expand((U.times(x[:, None]), V.times(y[:, None]), W))
        least = orders.pop(0, np.zeros((1, 1, len(right)), dtype=np.int64)).ravel()
        if all(order > 0 for order in orders) and all(int(got) == int(want) * scale for got, want in zip(least, right, strict=True)):
            return convention, (U, V, W)
    return found[0], factors
