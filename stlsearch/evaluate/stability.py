"""Forward errors measured beside the bounds of `stlsearch.stability`, and beside the ordinary product's in the same run.

The algorithm is run as the bounds assume: recursively through L levels, every sum of blocks term by term and rounded at each step,
the ordinary product on the blocks that are left. Errors are in units of u |A| |B|, in largest entries and in Frobenius norms, so that
they compare with the bounds directly; level 0 is the ordinary product itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.ops import DTYPES
from stlsearch.stability import Stability, growth_factor, stability

__all__ = ["ForwardError", "Stability", "forward_errors", "growth_factor", "levels_measured", "recursive_product", "stability"]

LEAF = 16  # side of the blocks at the deepest level
MOST_LEVELS = 3
MOST_PRODUCTS = 10_000  # of blocks at the deepest level
DRAWS = 4


@dataclass(frozen=True)
class ForwardError:
    """Errors of one product through some levels, in units of u |A| |B|, with their bounds.

    Attributes:
        dtype: the name in `stlsearch.ops.DTYPES`.
        levels: of recursion; 0 is the ordinary product.
        size: (M, K, N), the same for all levels.
        largest, frobenius: the largest of `DRAWS` measured errors, by largest entries and by Frobenius norms.
        largest_bound, frobenius_bound: what it cannot exceed, to first order in u.
    """

    dtype: str
    levels: int
    size: tuple[int, int, int]
    largest: float
    largest_bound: float
    frobenius: float
    frobenius_bound: float

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "dtype": self.dtype,
            "levels": self.levels,
            "size": list(self.size),
            "max_error": self.largest,
            "max_bound": self.largest_bound,
            "frobenius_error": self.frobenius,
            "frobenius_bound": self.frobenius_bound,
        }


def levels_measured(algorithm: BilinearAlgorithm) -> int:
    """How deep `forward_errors` goes: up to `MOST_LEVELS`, while there are at most `MOST_PRODUCTS` products."""
    return max(levels for levels in range(1, MOST_LEVELS + 1) if levels == 1 or algorithm.rank**levels <= MOST_PRODUCTS)


def forward_errors(
    algorithm: BilinearAlgorithm, *, dtypes: Sequence[str] = ("float32",), levels: int | None = None, leaf: int = LEAF, seed: int = 0
) -> list[ForwardError]:
    """Errors through 0, 1, ... levels of recursion on the same matrices of entries uniform in [-1, 1), for each dtype but float64.

    The matrices are rounded to the dtype first, and the reference is their product in float64.

    Args:
        dtypes: names in `stlsearch.ops.DTYPES`; float64, the reference's own, is passed over.
        levels: the deepest; by default `levels_measured`.
        leaf: side of the blocks at the deepest level.
        seed: of the matrices.

    Raises:
        InputError: an unknown dtype, or an algorithm without stability figures.
    """
    figures = stability(algorithm)
    assert algorithm.target.shape is not None  # `stability` has seen to it
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r:.40}; valid: {', '.join(DTYPES)}")
    deepest = levels_measured(algorithm) if levels is None else levels
    rows, inner, columns = (leaf * side**deepest for side in algorithm.target.shape)
    found = []
    for dtype in dtypes:
        if dtype == "float64":
            continue
        unit = UNIT_ROUNDOFF[dtype]
        generator = torch.Generator().manual_seed(seed)
        worst = [(0.0, 0.0)] * (deepest + 1)
        for _ in range(DRAWS):
            A, B = (
                (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1).to(DTYPES[dtype])
                for shape in ((rows, inner), (inner, columns))
            )
            exact = A.double() @ B.double()
            largest, norm = float(A.abs().max() * B.abs().max()) * unit, float(A.double().norm() * B.double().norm()) * unit
            for level in range(deepest + 1):
                error = recursive_product(algorithm, A, B, level).double() - exact
                pair = float(error.abs().max()) / largest, float(error.norm()) / norm
                worst[level] = max(worst[level][0], pair[0]), max(worst[level][1], pair[1])
        for level, (by_entry, by_norm) in enumerate(worst):
            bounds = float(figures.max_bound(inner, level)), figures.frobenius_bound(inner, level)
            found.append(ForwardError(dtype, level, (rows, inner, columns), by_entry, bounds[0], by_norm, bounds[1]))
    return found


def recursive_product(algorithm: BilinearAlgorithm, A: Tensor, B: Tensor, levels: int) -> Tensor:
    """A (M, K) times B (K, N) by `levels` of recursion in their dtype, the ordinary product at the bottom.

    Raises:
        InputError: sizes that do not divide, or an algorithm that is not an exact real matrix product.
    """
    if algorithm.exact is None or not algorithm.is_real or algorithm.target.shape is None:
        raise InputError(f"{algorithm.name} is not an exact real matrix product")
    n, m, p = algorithm.target.shape
    sides = (*A.shape, B.shape[1])
    if A.shape[1] != B.shape[0] or any(side % base**levels for side, base in zip(sides, (n, m, p), strict=True)):
        raise InputError(f"{tuple(A.shape)} times {tuple(B.shape)} is not divisible by <{n},{m},{p}> at {levels} levels")
    U, V, W = algorithm.exact
    encoders = _terms(U), _terms(V)
    decoder = _terms(ExactMatrix.make(W.real.T, W.denominator))

    def multiply(A: Tensor, B: Tensor, levels: int) -> Tensor:
        """A (batch, M, K) times B (batch, K, N)."""
        if levels == 0:
            return A @ B
        lefts, rights = _combine(encoders[0], _split(A, n, m)), _combine(encoders[1], _split(B, m, p))
        products = multiply(lefts.flatten(0, 1), rights.flatten(0, 1), levels - 1)
        blocks = _combine(decoder, products.unflatten(0, (len(A), -1)))
        return blocks.unflatten(1, (n, p)).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    return multiply(A[None], B[None], levels)[0]


def _split(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """(batch, M, K) as (batch, rows * columns, M / rows, K / columns), blocks in row-major order."""
    return matrix.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).transpose(2, 3).flatten(1, 2)


def _terms(matrix: ExactMatrix) -> list[list[tuple[int, float]]]:
    """The non-zeros of each row, as (column, coefficient)."""
    return [[(place, value / matrix.denominator) for place, value in enumerate(row) if value] for row in matrix.real.tolist()]


def _combine(terms: list[list[tuple[int, float]]], blocks: Tensor) -> Tensor:
    """Each row's combination of blocks (batch, d, x, y), one term after the other: (batch, rows, x, y)."""
    results = []
    for row in terms:
        total = torch.zeros_like(blocks[:, 0])
        for place, coefficient in row:
            block = blocks[:, place]
            total = total + (block if coefficient == 1 else coefficient * block)
        results.append(total)
    return torch.stack(results, dim=1)
