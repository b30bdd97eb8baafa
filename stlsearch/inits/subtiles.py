"""Packings: the tile's scalar products covered by exact algorithms of smaller tiles, as many as the rank affords.

The product of an n x m by an m x p matrix is a brick of nmp scalar products a_ij b_jk. A sub-brick I x J x K of it
is a smaller matrix product, done by an exact algorithm of rank R(|I|, |J|, |K|); disjoint bricks add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.inits.request import Request, Start
from stlsearch.solvers.problem import Factors
from stlsearch.targets import Target

MAX_EXTENT = 4  # of the exact pieces, besides the whole tile: larger ones are hardly better than packings of these
MAX_SLACK = 2  # products a restart may give up for another packing
IDLE = 1e-9  # |w| of an idle term: no error worth the name, but unlike 0 a solver can grow it

SIDES = ((0, 1), (1, 2), (0, 2))  # the axes of the tile that A, B and C hold

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Brick:
    """The scalar products (i, j, k) from `corner` on, `shape` of them along each axis."""

    corner: Shape
    shape: Shape

    def cut(self, axis: int, at: int) -> tuple[Brick, Brick]:
        """The two parts below and from `at` along one axis."""
        corner, low, high = list(self.corner), list(self.shape), list(self.shape)
        corner[axis] += at
        low[axis], high[axis] = at, high[axis] - at
        return Brick(self.corner, (low[0], low[1], low[2])), Brick((corner[0], corner[1], corner[2]), (high[0], high[1], high[2]))


@dataclass
class Packer:
    """Guillotine packings of one tile: bricks are taken whole, left out, or cut in two.

    Attributes:
        request: knows the exact algorithms.
        tile: (n, m, p).
        rank: the rank to spend.
    """

    request: Request
    tile: Shape
    rank: int
    _pieces: dict[Shape, BilinearAlgorithm] = field(default_factory=dict)
    _curves: dict[Shape, np.ndarray] = field(default_factory=dict)
    _costs: dict[Shape, int] = field(default_factory=dict)

    def piece(self, shape: Shape) -> BilinearAlgorithm:
        """The exact algorithm of a brick."""
        if shape not in self._pieces:
            self._pieces[shape] = self.request.exact(Target.matmul(*shape))
        return self._pieces[shape]

    def cost(self, shape: Shape) -> int | None:
        """The rank of the exact algorithm of a brick, the same for every order of its extents; None when too large."""
        if max(shape) > MAX_EXTENT and sorted(shape) != sorted(self.tile):
            return None
        n, m, p = sorted(shape)
        if (n, m, p) not in self._costs:
            # With an extent of 1 (a matrix times a vector, an outer product) nothing beats the standard algorithm.
            self._costs[n, m, p] = self.piece((n, m, p)).rank if n > 1 else m * p
        return self._costs[n, m, p]

    def curve(self, shape: Shape) -> np.ndarray:
        """The most products of a brick covered at rank 0, 1, ..., at most min(nmp, r); non-decreasing.

        best(r) = max(nmp if r >= R(n,m,p), max over cuts and r' of best_low(r') + best_high(r - r')).
        """
        self.request.monitor.tick()
        n, m, p = sorted(shape)
        if (n, m, p) in self._curves:
            return self._curves[n, m, p]
        best = np.zeros(min(n * m * p, self.rank) + 1, dtype=np.int64)
        price = self.cost((n, m, p))
        if price is not None:
            best[price:] = n * m * p
        for low, high in _cuts(Brick((0, 0, 0), (n, m, p))):
            first, second = self.curve(low.shape), self.curve(high.shape)
            for spent, covered in enumerate(first):
                end = min(len(best), spent + len(second))
                np.maximum(best[spent:end], covered + second[: end - spent], out=best[spent:end])
        self._curves[n, m, p] = np.maximum.accumulate(best)
        return self._curves[n, m, p]

    def covered(self, shape: Shape, rank: int) -> int:
        """The most products of a brick covered by at most `rank` terms."""
        curve = self.curve(shape)
        return int(curve[min(rank, len(curve) - 1)])

    def packing(self, brick: Brick, rank: int, slack: int, generator: torch.Generator) -> list[Brick]:
        """A random packing of at most `rank` terms that covers at most `slack` products fewer than the best one."""
        goal = max(self.covered(brick.shape, rank) - slack, 0)
        if goal == 0:
            return []
        price = self.cost(brick.shape)
        options: list[tuple[Brick, Brick, int] | None] = [None] if price is not None and price <= rank else []
        for low, high in _cuts(brick):
            first, second = self.curve(low.shape), self.curve(high.shape)
            spent = np.arange(min(rank, len(first) - 1) + 1)
            total = first[spent] + second[np.minimum(rank - spent, len(second) - 1)]
            options += [(low, high, int(share)) for share in np.flatnonzero(total >= goal)]
        option = options[int(torch.randint(len(options), (), generator=generator))]
        if option is None:
            return [brick]
        low, high, share = option
        left = self.covered(low.shape, share) + self.covered(high.shape, rank - share) - goal
        given = int(torch.randint(left + 1, (), generator=generator))
        return self.packing(low, share, given, generator) + self.packing(high, rank - share, left - given, generator)


def subtiles(request: Request) -> Start:
    """The tile packed with exact smaller algorithms, so that e = k / nmp with k products missing.

    Good approximate bases cluster at errors k / nmp: exact algorithms on sub-tiles plus single products, which
    is what solvers run into from elsewhere. This start goes there directly: by dynamic programming over guillotine
    partitions (Gilmore and Gomory 1966, for cutting stock) it covers the most products that the rank affords, with
    Strassen's <2,2,2;7>, Laderman's <3,3,3;23> and whatever else `request.exact` knows. Why it should help: below
    the exact rank it sets a floor no start should end above, and amplification is small.

    A packing is a stationary point: no solver leaves it. So the first restart is the best packing, and each later
    one packs a random share of the rank, half of it at least, leaving the other terms idle (random u and v, w of
    length 1e-9) for the solver to use; it also draws another packing (up to two products short of the best, the
    rank saved spent on single products) and permutes rows, inner index and columns.

    Raises:
        NotApplicable: not a matmul target.
    """
    tile = request.matmul_shape("subtiles")
    packer = Packer(request, tile, request.rank)
    starts = [_one_start(packer, index, request.generator) for index in range(request.restarts)]
    U, V, W = (torch.stack([start[mode] for start in starts]).to(request.problem.tensor) for mode in range(3))
    covered = packer.covered(tile, request.rank)
    return Start(request.problem.whiten((U, V, W)), {"covered_products": covered})


def _cuts(brick: Brick) -> Iterator[tuple[Brick, Brick]]:
    for axis, extent in enumerate(brick.shape):
        for at in range(1, extent):
            yield brick.cut(axis, at)


def _one_start(packer: Packer, index: int, generator: torch.Generator) -> Factors:
    """Factors (r, a), (r, b), (r, c) of one restart."""
    tile, rank = packer.tile, packer.rank
    packed, slack = rank, 0
    orders = [torch.arange(extent) for extent in tile]
    if index:
        packed -= int(torch.randint(rank // 2 + 1, (), generator=generator))
        slack = int(torch.randint(MAX_SLACK + 1, (), generator=generator))
        orders = [torch.randperm(extent, generator=generator) for extent in tile]
    bricks = packer.packing(Brick((0, 0, 0), tile), packed, slack, generator)
    missing = torch.ones(tile, dtype=torch.bool)
    for brick in bricks:
        missing[_slices(brick)] = False
    spare = packed - sum(packer.piece(brick.shape).rank for brick in bricks)
    singles = missing.nonzero()
    chosen = singles[torch.randperm(len(singles), generator=generator)[:spare]]
    bricks += [Brick((i, j, k), (1, 1, 1)) for i, j, k in chosen.tolist()]

    rows = [_terms(packer.piece(brick.shape), brick, tile) for brick in bricks]
    idle = rank - sum(len(terms[0]) for terms in rows)
    u, v, w = (torch.randn(idle, extent, generator=generator, dtype=torch.float64) for extent in packer.request.problem.target.dims)
    length = IDLE if len(singles) > spare else 0.0  # nothing is missing from a complete cover
    rows.append((u, v, length * w / w.norm(dim=1, keepdim=True)))
    factors = []
    for mode, (row, column) in enumerate(SIDES):
        matrices = torch.cat([terms[mode] for terms in rows]).reshape(rank, tile[row], tile[column])
        factors.append(matrices[:, orders[row]][:, :, orders[column]].flatten(1))
    return factors[0], factors[1], factors[2]


def _terms(algorithm: BilinearAlgorithm, brick: Brick, tile: Shape) -> Factors:
    """The terms of an exact algorithm acting on one brick of the tile."""
    factors = []
    window = _slices(brick)
    for factor, (row, column) in zip((algorithm.U, algorithm.V, algorithm.W), SIDES, strict=True):
        placed = torch.zeros(algorithm.rank, tile[row], tile[column], dtype=torch.float64)
        placed[:, window[row], window[column]] = torch.tensor(factor).reshape(-1, brick.shape[row], brick.shape[column])
        factors.append(placed.flatten(1))
    return factors[0], factors[1], factors[2]


def _slices(brick: Brick) -> tuple[slice, slice, slice]:
    i, j, k = (slice(start, start + extent) for start, extent in zip(brick.corner, brick.shape, strict=True))
    return i, j, k
